// What a query of guaranteed attention has read and may read.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "ops/guaranteed_attention.h"

namespace sluice {

// One query of a tile.
struct GuardedQuery {
  static constexpr int64_t kBlock = KeyBlockView::kBlock;

  int64_t t = 0;
  FarBlocks far;
  std::vector<uint64_t> read;   // [blocks]: keys of a block that are read already, or are no far keys
  std::vector<int32_t> unread;  // Blocks, from far.first_block on.
  std::vector<uint8_t> wanted;  // [blocks]: read in this round
  std::vector<float> rho;       // [groups · 8]
  bool bounded = true;          // No slack is beyond kMaxSlack.
  bool done = false;
  int64_t keys_read = 0;
  int64_t blocks_read = 0;  // In rounds.
  float bound = 0;

  GuardedQuery(const AttentionSpan& span, const TensorView& candidates, int64_t row)
      : t(row), far(span, row) {
    const int64_t blocks = far.end_block - far.first_block;
    read.assign(static_cast<size_t>(blocks), 0);
    wanted.assign(static_cast<size_t>(blocks), 0);
    if (blocks == 0) return;
    read[0] = (uint64_t{1} << (far.first_key % kBlock)) - 1;
    for (int64_t j = 0; j < candidates.dim(1); ++j) {
      const int64_t key = candidates.row<int32_t>(t)[j];
      if (key < 0 || key >= far.end_key) continue;
      read[static_cast<size_t>(key / kBlock - far.first_block)] |= uint64_t{1} << (key % kBlock);
    }
    for (int64_t b = 0; b < blocks; ++b) {
      if (NumUnread(b) > 0) unread.push_back(static_cast<int32_t>(b));
    }
  }
  int64_t NumUnread(int64_t b) const { return kBlock - std::popcount(read[static_cast<size_t>(b)]); }
};

}  // namespace sluice
