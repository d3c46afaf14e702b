// What the scan over packed gate keys works with, independent of the vector width: a query as codes, and the
// best keys that it has found so far.
//
// Scores are never negative, so a score's bits order as an integer: an entry is (score bits, complement of
// the index), and the largest entries are the highest scores, ties to the lower index.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "ops/gate.h"
#include "ops/gate_numerics.h"

namespace sluice::gate_scan {

inline constexpr int64_t kGroup = GateKeyView::kGroup;
// Room above k before a buffer is compacted: 32 and 128 were slower.
inline constexpr int64_t kExtraEntries = 64;

inline uint64_t MakeEntry(float score, int64_t index) {
  return (static_cast<uint64_t>(std::bit_cast<uint32_t>(score)) << 32) |
         (0xffffffffu - static_cast<uint32_t>(index));
}
inline int32_t EntryIndex(uint64_t entry) {
  return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(entry));
}
inline float EntryScore(uint64_t entry) {
  return std::bit_cast<float>(static_cast<uint32_t>(entry >> 32));
}

// The k-th largest. REQUIRES: 0 < k <= entries.size().
inline uint64_t RankedEntry(std::vector<uint64_t> entries, int64_t k) {
  const auto last = entries.begin() + k - 1;
  std::nth_element(entries.begin(), last, entries.end(), std::greater<>());
  return *last;
}

// Keeps the k best, in the order in which they stand.
inline void KeepBest(std::vector<uint64_t>& entries, int64_t k) {
  if (std::ssize(entries) <= k) return;
  if (k == 0) return entries.clear();
  const uint64_t worst = RankedEntry(entries, k);
  std::erase_if(entries, [&](uint64_t entry) { return entry < worst; });
}

// The best entries of one query over part of its keys.
class TopEntries {
 public:
  void Reset(int64_t k) {
    k_ = k;
    entries_.clear();
    entries_.reserve(static_cast<size_t>(k + kExtraEntries + kGroup));
    threshold_ = -1.0f;
  }
  int64_t k() const { return k_; }
  // There are k entries or more, none of them below the threshold.
  bool full() const { return threshold_ >= 0; }
  // Only scores above it can still matter, if the keys to come are at higher positions.
  float threshold() const { return threshold_; }
  void Add(float score, int64_t position) { entries_.push_back(MakeEntry(score, position)); }
  void CompactIfFull() {
    if (std::ssize(entries_) >= k_ + kExtraEntries) Compact();
  }
  // Keeps the k best, in the order in which they came.
  void Compact() {
    if (std::ssize(entries_) < k_ || k_ == 0) return;
    const uint64_t worst = RankedEntry(entries_, k_);
    std::erase_if(entries_, [&](uint64_t entry) { return entry < worst; });
    threshold_ = EntryScore(worst);
  }
  const std::vector<uint64_t>& entries() const { return entries_; }

 private:
  int64_t k_ = 0;
  float threshold_ = -1.0f;
  std::vector<uint64_t> entries_;
};

// A query as the scan reads it.
struct ScanQuery {
  int64_t begin = 0;  // Its keys in this scan.
  int64_t end = 0;
  const int16_t* codes = nullptr;      // [heads, size]
  const float* head_weight = nullptr;  // [heads]: c_h
  // codes = 128 coarse + rest, for the 8-bit bound.
  const int32_t* coarse = nullptr;       // [heads, size / 4 rounded up]: 4 signed bytes each
  const int32_t* coarse_init = nullptr;  // [heads]
  const float* coarse_weight = nullptr;  // [heads]
  TopEntries* top = nullptr;
};

// One query rounded to codes, with its 8-bit part.
class QueryCodes {
 public:
  // gq: [heads, size], gw: [heads].
  QueryCodes(const float* gq, const float* gw, int64_t heads, int64_t size)
      : codes_(static_cast<size_t>(heads * size)),
        coarse_(static_cast<size_t>(heads * ((size + 3) / 4)), 0),
        head_weight_(static_cast<size_t>(heads)),
        coarse_init_(static_cast<size_t>(heads)),
        coarse_weight_(static_cast<size_t>(heads)) {
    for (int64_t h = 0; h < heads; ++h) {
      const float scale = RoundGateQuery(gq + h * size, size, codes_.data() + h * size);
      head_weight_[static_cast<size_t>(h)] = GateHeadWeight(gw[h]) * scale;
      MakeCoarse(h, size);
    }
  }

  ScanQuery Over(int64_t begin, int64_t end, TopEntries* top) const {
    return {begin,
            end,
            codes_.data(),
            head_weight_.data(),
            coarse_.data(),
            coarse_init_.data(),
            coarse_weight_.data(),
            top};
  }

 private:
  // Keys come with 128 added, which coarse_init takes off again.
  void MakeCoarse(int64_t head, int64_t size) {
    auto* bytes = reinterpret_cast<int8_t*>(coarse_.data() + head * ((size + 3) / 4));
    int32_t sum = 0;
    int32_t rest = 0;
    for (int64_t c = 0; c < size; ++c) {
      const int32_t code = codes_[static_cast<size_t>(head * size + c)];
      const int32_t high = std::clamp((code + 64) >> 7, -127, 127);
      bytes[c] = static_cast<int8_t>(high);
      sum += high;
      rest += std::abs(code - 128 * high);
    }
    const auto h = static_cast<size_t>(head);
    // ceil(127 Σ|rest| / 128), so that the bound is one on the exact dot product.
    coarse_init_[h] = (127 * rest + 127) / 128 - 128 * sum;
    coarse_weight_[h] = head_weight_[h] * 128.0f * 1.00001f;
  }

  std::vector<int16_t> codes_;
  std::vector<int32_t> coarse_;
  std::vector<float> head_weight_;
  std::vector<int32_t> coarse_init_;
  std::vector<float> coarse_weight_;
};

// Scans the keys of `count` queries; every entry that can be among a query's k best stays in its top.
void ScanKeys(const GateKeyView& keys, ScanQuery* queries, int64_t count, int64_t heads, int64_t size);

}  // namespace sluice::gate_scan
