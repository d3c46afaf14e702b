#include "engine/prompt.h"

namespace sluice {

std::vector<int32_t> DocumentPrompt(std::span<const int32_t> document) {
  std::vector<int32_t> prompt;
  prompt.reserve(document.size() + 1);
  prompt.push_back(kDocument);
  prompt.insert(prompt.end(), document.begin(), document.end());
  return prompt;
}

std::vector<int32_t> QuestionPrompt(const Tokenizer& tokenizer, std::string_view question) {
  const std::vector<int32_t> words = tokenizer.Encode(question);
  std::vector<int32_t> prompt;
  prompt.reserve(words.size() + 2);
  prompt.push_back(kUser);
  prompt.insert(prompt.end(), words.begin(), words.end());
  prompt.push_back(kAssistant);
  return prompt;
}

std::vector<int32_t> AskPrompt(std::span<const int32_t> document, const Tokenizer& tokenizer,
                               std::string_view question) {
  std::vector<int32_t> prompt = DocumentPrompt(document);
  const std::vector<int32_t> rest = QuestionPrompt(tokenizer, question);
  prompt.insert(prompt.end(), rest.begin(), rest.end());
  return prompt;
}

}  // namespace sluice
