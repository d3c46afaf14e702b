// Byte-pair merging (Sennrich, Haddow, Birch 2016): a piece starts as its bytes; the adjacent pair
// with the lowest rank, leftmost first, is replaced by its result until no pair has a rank.
// Short pieces scan a small array; long ones use a priority queue, O(n log n).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace sluice {

struct BpeMerge {
  int32_t left;
  int32_t right;
  int32_t result;
  bool operator==(const BpeMerge&) const = default;
};

class BpeMerger {
 public:
  BpeMerger() = default;
  // A merge's rank is its place in `merges`; where a pair is listed twice the later place counts.
  // byte_ids[b] is the token of byte b. REQUIRES: all ids >= 0.
  BpeMerger(std::span<const BpeMerge> merges, const std::array<int32_t, 256>& byte_ids);

  // Writes the tokens of a piece to `out` and returns how many, at most one per byte.
  // REQUIRES: room for piece.size() tokens at `out`.
  size_t Encode(std::string_view piece, int32_t* out) const;

 private:
  static constexpr uint32_t kNoRank = ~0u;
  static constexpr size_t kMaxShort = 64;  // Bytes; above it the queue is faster.
  struct Slot {
    uint64_t pair = ~uint64_t{0};  // left << 32 | right; all ones is empty.
    uint32_t rank = kNoRank;
    int32_t result = -1;
  };

  static uint64_t PairKey(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  // The slot of a pair, or an empty one.
  const Slot& Find(int32_t left, int32_t right) const;
  size_t EncodeShort(std::string_view piece, int32_t* out) const;
  size_t EncodeLong(std::string_view piece, int32_t* out) const;

  std::array<int32_t, 256> byte_ids_ = {};
  std::vector<Slot> slots_;  // Open addressing, a power of two, at most half full.
  int shift_ = 0;
};

}  // namespace sluice
