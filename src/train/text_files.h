// Finding text files and splitting them into documents, ahead of tokenisation (text_corpus.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct TextFile {
  std::filesystem::path path;
  uint64_t size = 0;
  int64_t modified = 0;  // Ticks of the file system's clock.
};

// The file itself, or all *.txt, *.md and *.jsonl below the folder, ordered by path. Throws InputError
// if the path does not exist or the folder has none.
std::vector<TextFile> ListTextFiles(const std::filesystem::path& path);

// The documents of a plain text: cut at lines that are "<|endoftext|>", without the line break in
// front of it; documents of nothing but white space are left out. Views into `text`.
std::vector<std::string_view> SplitDocuments(std::string_view text);

// The documents of a .jsonl text. Throws InputError with `path` and the line.
std::vector<std::string> ReadJsonLines(const std::filesystem::path& path, std::string_view text);

}  // namespace sluice
