// What evaluations read: documents of text files, and of JSON lines also questions about them, in the
// fields of LongBench ("context", "input", "answers") and LongBench v2 ("context", "question", "choices"
// or "choice_A" to "choice_D", "answer" a letter).
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace sluice {

struct EvalQuestion {
  std::string question;
  std::vector<std::string> choices;  // Empty: the answer is free.
  size_t right_choice = 0;
  std::vector<std::string> answers;  // Free: any of these is right.

  // The texts that an answer may be: the choices, or the right answers.
  const std::vector<std::string>& candidates() const { return choices.empty() ? answers : choices; }
};

struct EvalDocument {
  std::string text;
  std::optional<EvalQuestion> question;
};

// Documents of files and folders, as training reads them (train/text_files.h); .json files are lines of
// JSON too. A line's document is its "context" or "text", and only a line that has one may have a question;
// of other lines "question" and "answer" are the text, as in training. Invalid UTF-8 becomes U+FFFD. Throws
// InputError if there is no text, and for a line that is not as above, naming file and line.
std::vector<EvalDocument> ReadDocuments(const std::vector<std::filesystem::path>& paths);

// Their texts alone.
std::vector<std::string> ReadTexts(const std::vector<std::filesystem::path>& paths);

}  // namespace sluice
