// Prompts of the format in text/prompt.h, as tokens. The text of a document, question or answer is
// encoded without special tokens: what a document spells is never taken for a mark.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/prompt.h"
#include "text/tokenizer.h"

namespace sluice {

// <|document|> text
std::vector<int32_t> DocumentPrompt(std::span<const int32_t> document);

// <|user|> question <|assistant|>
std::vector<int32_t> QuestionPrompt(const Tokenizer& tokenizer, std::string_view question);

// Both: what the model answers to.
std::vector<int32_t> AskPrompt(std::span<const int32_t> document, const Tokenizer& tokenizer,
                               std::string_view question);

}  // namespace sluice
