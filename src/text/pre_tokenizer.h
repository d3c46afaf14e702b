// Cuts text into the pieces that byte-pair merges never cross. A pre-tokenizer is a sequence of
// regular expressions, each applied to the pieces of the one before; the two patterns that matter
// most run as hand-written scanners with the same result (pre_tokenizer_test.cc holds them to it).
// Text may be any bytes: an invalid byte counts as one symbol that is no letter, number or space.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"

namespace sluice {

// What GPT-2 and every "ByteLevel, use_regex" tokenizer split on.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Our own: Qwen2's. Every digit is a piece, line ends close a piece.
inline constexpr std::string_view kDefaultPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// Ends of the first piece of text[pos, ...) under each pattern. REQUIRES: pos < text.size().
size_t NextGpt2Piece(std::string_view text, size_t pos);
size_t NextDefaultPiece(std::string_view text, size_t pos);

class PreTokenizer {
 public:
  struct Step {
    std::string pattern;
    bool keep_gaps = true;  // Whether text between two matches is a piece too, or dropped.
  };

  // `allow_scanners` false runs everything through the regular expressions (tests, comparisons).
  // Throws InputError if a pattern is not valid.
  explicit PreTokenizer(const std::vector<Step>& steps, bool allow_scanners = true);

  // Calls visit(piece) for every piece in order; pieces are views into `text` and never empty.
  template <class Visit>
  void ForEachPiece(std::string_view text, Visit&& visit) const {
    switch (kind_) {
      case Kind::kGpt2:
        return ScanPieces(text, NextGpt2Piece, visit);
      case Kind::kDefault:
        return ScanPieces(text, NextDefaultPiece, visit);
      case Kind::kRegex:
        return ForEachRegexPiece(text, visit);
    }
  }

 private:
  enum class Kind { kGpt2, kDefault, kRegex };
  struct CompiledStep {
    Regex regex;
    bool keep_gaps;
  };

  template <class Next, class Visit>
  static void ScanPieces(std::string_view text, Next next, Visit& visit) {
    for (size_t pos = 0; pos < text.size();) {
      const size_t end = next(text, pos);
      visit(text.substr(pos, end - pos));
      pos = end;
    }
  }
  void ForEachRegexPiece(std::string_view text, const std::function<void(std::string_view)>& visit) const;

  Kind kind_ = Kind::kRegex;
  std::vector<CompiledStep> steps_;
};

}  // namespace sluice
