// Documents to search in: real text as tokens, with facts planted in it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/tokenizer.h"
#include "train/facts.h"

namespace sluice {

// Text of any length, out of documents joined end to end.
class Haystack {
 public:
  Haystack(const Tokenizer& tokenizer, const std::vector<std::string>& texts);

  int64_t num_tokens() const { return static_cast<int64_t>(tokens_.size()); }
  // `length` tokens from `begin` on, from the start again behind the end.
  std::vector<int32_t> Slice(int64_t begin, int64_t length) const;
  // Tokens after which something may be planted: the ends of sentences and lines.
  bool EndsSentence(int32_t token) const { return ends_sentence_[static_cast<size_t>(token)]; }

 private:
  std::vector<int32_t> tokens_;
  std::vector<bool> ends_sentence_;
};

// Where something is planted: `tokens` go in at the sentence's end nearest behind `depth` (0 the first
// token, 1 the last).
struct Planting {
  double depth = 0;
  std::vector<int32_t> tokens;
};
std::vector<int32_t> Plant(const Haystack& haystack, const std::vector<int32_t>& text,
                           std::vector<Planting> plantings);

}  // namespace sluice
