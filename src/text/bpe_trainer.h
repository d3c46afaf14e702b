// Learns a byte-level BPE vocabulary. Text is cut into pieces as the tokenizer will cut it; equal
// pieces are counted once; then the most frequent adjacent pair becomes a token, again and again,
// with incremental pair counts and a lazy heap.
// Deterministic: of equally frequent pairs the one with the lower (left id, right id) comes first.
// Ids: special tokens 0 .. S-1, byte b is S + b, then the learned tokens in order.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"

namespace sluice {

struct BpeTrainerOptions {
  int vocab_size = 4096;  // Special tokens and the 256 bytes included.
  std::vector<std::string> special_tokens;
  std::string pattern = std::string(kDefaultPattern);
  // A line of a file that is exactly this ends a document and is not learned from.
  std::string document_separator = "<|endoftext|>";
  int64_t min_pair_count = 2;
  size_t max_token_bytes = 24;           // Longer runs of '-' or '=' are no use.
  size_t max_piece_bytes = 256;          // Longer pieces are not learned from.
  size_t max_distinct_pieces = 4 << 20;  // Beyond it the rarest are dropped: bounds memory.
  bool show_progress = true;
};

// How much of a file to read, spread evenly over it in blocks of lines, and how much it counts.
struct CorpusSample {
  double fraction = 1;     // In (0, 1].
  uint64_t max_bytes = 0;  // 0 is no limit. The smaller of the two holds.
  int64_t weight = 1;      // Each piece counts this many times.
};

class BpeTrainer {
 public:
  // Throws InputError if vocab_size is too small for the bytes and special tokens, if a special token
  // is empty or listed twice, or if the pattern is not valid.
  explicit BpeTrainer(BpeTrainerOptions options);

  // One document; merges never cross its ends.
  void AddDocument(std::string_view text, int64_t weight = 1);
  // Returns the bytes that were learned from.
  uint64_t AddFile(const std::filesystem::path& path, const CorpusSample& sample = {});

  // The vocabulary is smaller than asked for if the corpus has no more pairs that occur
  // min_pair_count times. May be called again after more documents.
  Tokenizer Train() const;

 private:
  void DropRarePieces();

  BpeTrainerOptions options_;
  PreTokenizer pre_tokenizer_;
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::unordered_map<std::string, int64_t, Hash, std::equal_to<>> piece_counts_;
};

}  // namespace sluice
