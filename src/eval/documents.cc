#include "eval/documents.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "text/utf8.h"
#include "train/text_files.h"

namespace sluice {

namespace {

using Json = nlohmann::ordered_json;

bool IsJsonLines(const std::filesystem::path& file) {
  return file.extension() == ".json" || file.extension() == ".jsonl";
}

// The first of the fields that is a string of some length; else empty.
template <size_t kFields>
std::string StringField(const Json& json, const std::array<const char*, kFields>& fields) {
  for (const char* field : fields) {
    const auto it = json.find(field);
    if (it != json.end() && it->is_string() && !it->get_ref<const std::string&>().empty()) return *it;
  }
  return "";
}

// Sets `choices` and `right_choice`, if the line has choices; `answer` is the right one's letter.
void ReadChoices(const Json& json, const std::string& answer, const std::string& where,
                 EvalQuestion& question) {
  constexpr std::string_view kLetters = "ABCDEFGHIJ";
  const auto object = json.find("choices");
  bool found = false;
  for (const char letter : kLetters) {
    const std::string name(1, letter);
    const std::string text = object != json.end() && object->is_object()
                                 ? StringField(*object, std::array{name.c_str()})
                                 : StringField(json, std::array{("choice_" + name).c_str()});
    if (text.empty()) break;
    if (name == answer) {
      found = true;
      question.right_choice = question.choices.size();
    }
    question.choices.push_back(text);
  }
  if (!question.choices.empty() && !found) {
    throw InputError("{}: \"answer\" is \"{}\", which is none of the {} choices, A to {}", where, answer,
                     question.choices.size(), kLetters[question.choices.size() - 1]);
  }
}

std::optional<EvalQuestion> ReadQuestion(const Json& json, const std::string& where) {
  EvalQuestion question;
  question.question = StringField(json, std::array{"input", "question"});
  if (question.question.empty()) return std::nullopt;
  const std::string answer = StringField(json, std::array{"answer"});
  ReadChoices(json, answer, where, question);
  if (!question.choices.empty()) return question;
  if (!answer.empty()) question.answers.push_back(answer);
  if (const auto list = json.find("answers"); list != json.end() && list->is_array()) {
    for (const Json& item : *list) {
      if (!item.is_string() || item.get_ref<const std::string&>().empty())
        throw InputError("{}: \"answers\" must be a list of texts", where);
      question.answers.push_back(item);
    }
  }
  if (question.answers.empty()) return std::nullopt;
  return question;
}

EvalDocument ReadLine(std::string_view line, const std::string& where) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) throw InputError("{}: not a JSON object; every line must be one", where);
  std::string text = StringField(json, std::array{"context", "text"});
  if (!text.empty()) return {std::move(text), ReadQuestion(json, where)};
  for (const char* field : {"question", "answer"}) {
    const std::string part = StringField(json, std::array{field});
    if (!text.empty() && !part.empty()) text += '\n';
    text += part;
  }
  if (text.empty()) {
    throw InputError("{}: has none of the text fields \"context\", \"text\", \"question\" and \"answer\"",
                     where);
  }
  return {std::move(text), std::nullopt};
}

void ReadLines(const std::filesystem::path& file, std::string_view text,
               std::vector<EvalDocument>& documents) {
  int64_t line_number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    at = end + 1;
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    documents.push_back(ReadLine(line, fmt::format("{}, line {}", file.string(), line_number)));
  }
}

}  // namespace

std::vector<EvalDocument> ReadDocuments(const std::vector<std::filesystem::path>& paths) {
  std::vector<EvalDocument> documents;
  for (const auto& path : paths) {
    for (const TextFile& file : ListTextFiles(path)) {
      const MappedFile content(file.path);
      if (IsJsonLines(file.path)) {
        ReadLines(file.path, content.text(), documents);
        continue;
      }
      for (const std::string_view text : SplitDocuments(content.text()))
        documents.push_back({SanitizeUtf8(text), {}});
    }
  }
  if (documents.empty()) {
    std::vector<std::string> names;
    for (const auto& path : paths) names.push_back(path.string());
    throw InputError("{}: no text; name text files or folders of .txt, .md or .jsonl files",
                     fmt::join(names, ", "));
  }
  return documents;
}

std::vector<std::string> ReadTexts(const std::vector<std::filesystem::path>& paths) {
  std::vector<std::string> texts;
  for (EvalDocument& document : ReadDocuments(paths)) texts.push_back(std::move(document.text));
  return texts;
}

}  // namespace sluice
