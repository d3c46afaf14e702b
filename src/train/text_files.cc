#include "train/text_files.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/error.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kSeparator = "<|endoftext|>";

TextFile Describe(const fs::path& path) {
  std::error_code error;
  TextFile file{path, fs::file_size(path, error), 0};
  if (!error) file.modified = fs::last_write_time(path, error).time_since_epoch().count();
  if (error) throw InputError("{}: cannot be read ({})", path.string(), error.message());
  return file;
}

bool IsBlank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

// The next line from `at`, without its line break; `at` moves behind it.
std::string_view NextLine(std::string_view text, size_t& at) {
  const size_t end = std::min(text.find('\n', at), text.size());
  const std::string_view line = text.substr(at, end - at);
  at = end + 1;
  return line.ends_with('\r') ? line.substr(0, line.size() - 1) : line;
}

}  // namespace

std::vector<TextFile> ListTextFiles(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    throw InputError(
        "{}: no such file or folder; give the path of a text file or of a folder with text files",
        path.string());
  }
  if (!fs::is_directory(status)) return {Describe(path)};
  std::vector<TextFile> files;
  try {
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      const std::string extension = entry.path().extension().string();
      const bool is_text = extension == ".txt" || extension == ".md" || extension == ".jsonl";
      if (is_text && entry.is_regular_file()) files.push_back(Describe(entry.path()));
    }
  } catch (const fs::filesystem_error& failure) {
    throw InputError("{}: the folder cannot be read ({})", path.string(), failure.code().message());
  }
  if (files.empty()) throw InputError("{}: the folder holds no .txt, .md or .jsonl file", path.string());
  std::sort(files.begin(), files.end(), [](const TextFile& a, const TextFile& b) { return a.path < b.path; });
  return files;
}

std::vector<std::string_view> SplitDocuments(std::string_view text) {
  std::vector<std::string_view> documents;
  size_t begin = 0;
  const auto add = [&](size_t end) {
    std::string_view document = text.substr(begin, end - begin);
    if (document.ends_with('\n')) document.remove_suffix(1);
    if (!IsBlank(document)) documents.push_back(document);
  };
  for (size_t at = text.find(kSeparator); at != std::string_view::npos;) {
    const bool starts_line = at == 0 || text[at - 1] == '\n';
    size_t next = at;
    if (starts_line && NextLine(text, next) == kSeparator) {
      add(at);
      begin = std::min(next, text.size());
    } else {
      next = at + kSeparator.size();
    }
    at = text.find(kSeparator, next);
  }
  add(text.size());
  return documents;
}

std::vector<std::string> ReadJsonLines(const fs::path& path, std::string_view text) {
  std::vector<std::string> documents;
  int64_t line_number = 0;
  for (size_t at = 0; at < text.size();) {
    const std::string_view line = NextLine(text, at);
    ++line_number;
    if (IsBlank(line)) continue;
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) {
      throw InputError("{}, line {}: not a JSON object; every line must be one", path.string(), line_number);
    }
    std::string document;
    for (const char* field : {"text", "question", "answer"}) {
      const auto it = json.find(field);
      if (it == json.end() || !it->is_string()) continue;
      if (!document.empty()) document += '\n';
      document += it->get_ref<const std::string&>();
    }
    if (document.empty()) {
      throw InputError("{}, line {}: has none of the text fields \"text\", \"question\" and \"answer\"",
                       path.string(), line_number);
    }
    documents.push_back(std::move(document));
  }
  return documents;
}

}  // namespace sluice
