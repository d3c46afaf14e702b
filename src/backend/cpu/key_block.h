// The blocks of keys that full attention walks: they begin at multiples of their size, whatever the queries.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/attention.h"

namespace sluice {

inline constexpr int64_t kKeyBlock = kPageRows;
inline constexpr float kLowestLogit = -1e30f;  // A finite stand-in for the maximum of no logits.

// The keys of one block that a query sees: far and sinks are [begin, window), the window [window, end).
struct BlockRange {
  int64_t begin = 0;
  int64_t window = 0;
  int64_t end = 0;
  BlockRange() = default;
  BlockRange(const AttentionSpan& span, int64_t t, int64_t block)
      : begin(std::max(span.First(t), block)),
        window(0),
        end(std::min(span.Position(t) + 1, block + kKeyBlock)) {
    window = std::clamp(span.WindowBegin(t), begin, std::max(begin, end));
  }
};

// Far keys of query t in its part of a block.
struct FarPart {
  int64_t begin;
  int64_t count;
  FarPart(const AttentionSpan& span, int64_t t, const BlockRange& own)
      : begin(std::max(own.begin, span.SinksEnd(t))), count(std::max<int64_t>(own.window - begin, 0)) {}
};

}  // namespace sluice
