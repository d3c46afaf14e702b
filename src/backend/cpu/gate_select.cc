// Exact selection of the highest-scoring far keys: one scan over the packed int8 keys with the filter
// fused in. 16 keys are the lanes of a vector; a pair of channels is one multiply-add of 16-bit
// products into 32 bits, so dot products are exact; the float part follows ops/gate_numerics.h bit for
// bit. Scores are never negative, so a score's bits order as an integer: an entry is (score bits,
// complement of the position), and the largest entries are the highest scores, ties to the lower
// position. Each query keeps a buffer of entries above a running threshold and halves it when full.
#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "base/threads.h"
#include "ops/gate.h"
#include "ops/gate_numerics.h"

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/gate_select.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
// clang-format on

#ifndef SLUICE_BACKEND_CPU_GATE_SELECT_ONCE
#define SLUICE_BACKEND_CPU_GATE_SELECT_ONCE
namespace sluice {

constexpr int64_t kGroup = GateKeyView::kGroup;
constexpr int64_t kTileQueries = 8;     // Queries that share a key block while it is in L1.
constexpr int64_t kBlockGroups = 32;    // Groups of 16 keys per block: 16 KiB of codes at size 32.
constexpr int64_t kExtraEntries = 384;  // Room above k before a buffer is compacted.

// The best entries of one query over part of its keys.
class TopEntries {
 public:
  void Reset(int64_t k) {
    k_ = static_cast<size_t>(k);
    entries_.clear();
    entries_.reserve(k_ + kExtraEntries + kGroup);
    threshold_ = -1.0f;
  }
  // Only scores above it can still matter (the keys to come are at higher positions).
  float threshold() const { return threshold_; }
  void Add(float score, int64_t position) {
    const uint64_t bits = std::bit_cast<uint32_t>(score);
    entries_.push_back((bits << 32) | (0xffffffffu - static_cast<uint32_t>(position)));
  }
  void CompactIfFull() {
    if (entries_.size() >= k_ + kExtraEntries) Compact();
  }
  void Compact() {
    if (entries_.size() < k_ || k_ == 0) return;
    const auto last = entries_.begin() + static_cast<int64_t>(k_) - 1;
    std::nth_element(entries_.begin(), last, entries_.end(), std::greater<>());
    entries_.resize(k_);
    threshold_ = std::bit_cast<float>(static_cast<uint32_t>(entries_.back() >> 32));
  }
  std::vector<uint64_t>& entries() { return entries_; }

 private:
  size_t k_ = 0;
  float threshold_ = -1.0f;
  std::vector<uint64_t> entries_;
};

// A query as the scan reads it.
struct ScanQuery {
  int64_t begin = 0;  // Its keys in this scan.
  int64_t end = 0;
  const int16_t* codes = nullptr;      // [heads, size]
  const float* head_weight = nullptr;  // [heads]: c_h
  TopEntries* top = nullptr;
};

}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

// scores [16] of one group of keys.
HWY_INLINE void GroupScores(const int8_t* packed, const float* key_scale, const ScanQuery& query,
                            int64_t heads, int64_t size, float* scores) {
  for (int64_t i = 0; i < kGroup; ++i) {
    float acc = 0;
    for (int64_t h = 0; h < heads; ++h) {
      int32_t dot = 0;
      for (int64_t c = 0; c < size; ++c) {
        dot += packed[(c / 2) * 32 + i * 2 + c % 2] * query.codes[h * size + c];
      }
      acc = std::fmaf(query.head_weight[h], static_cast<float>(std::max(0, dot)), acc);
    }
    scores[i] = key_scale[i] * acc;
  }
}

HWY_INLINE void ScanGroup(const int8_t* packed, const float* key_scale, int64_t first_key,
                          const ScanQuery& query, int64_t heads, int64_t size) {
  float scores[kGroup];
  GroupScores(packed, key_scale, query, heads, size, scores);
  for (int64_t i = 0; i < kGroup; ++i) {
    const int64_t key = first_key + i;
    if (key >= query.begin && key < query.end && scores[i] > query.top->threshold())
      query.top->Add(scores[i], key);
  }
}

#else

using KeyTag = hn::CappedTag<float, 16>;

// 4 heads (or the last, fewer) of 16 keys at a time.
HWY_INLINE void ScanGroup(const int8_t* packed, const float* key_scale, int64_t first_key,
                          const ScanQuery& query, int64_t heads, int64_t size) {
  const KeyTag d;
  const hn::RebindToSigned<KeyTag> di;
  const hn::Repartition<int16_t, decltype(di)> dw;
  const hn::Rebind<int8_t, decltype(dw)> db;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t pairs = size / 2;
  for (int64_t part = 0; part < kGroup; part += lanes) {
    auto acc = hn::Zero(d);
    const int8_t* codes = packed + 2 * part;
    for (int64_t h = 0; h < heads; h += 4) {
      auto s0 = hn::Zero(di), s1 = s0, s2 = s0, s3 = s0, unused = s0;
      const int64_t rows = std::min<int64_t>(4, heads - h);
      const int16_t* q0 = query.codes + h * size;
      const int16_t* q1 = q0 + (rows > 1 ? size : 0);
      const int16_t* q2 = q0 + (rows > 2 ? 2 * size : 0);
      const int16_t* q3 = q0 + (rows > 3 ? 3 * size : 0);
      const auto pair = [&](const int16_t* q, int64_t i) HWY_ATTR {
        int32_t both;
        std::memcpy(&both, q + 2 * i, sizeof(both));
        return hn::BitCast(dw, hn::Set(di, both));
      };
      for (int64_t i = 0; i < pairs; ++i) {
        const auto keys = hn::PromoteTo(dw, hn::LoadU(db, codes + i * 2 * kGroup));
        s0 = hn::ReorderWidenMulAccumulate(di, keys, pair(q0, i), s0, unused);
        s1 = hn::ReorderWidenMulAccumulate(di, keys, pair(q1, i), s1, unused);
        s2 = hn::ReorderWidenMulAccumulate(di, keys, pair(q2, i), s2, unused);
        s3 = hn::ReorderWidenMulAccumulate(di, keys, pair(q3, i), s3, unused);
      }
      const auto add = [&](auto sum, int64_t head) HWY_ATTR {
        const auto dot = hn::ConvertTo(d, hn::Max(sum, hn::Zero(di)));
        acc = hn::MulAdd(hn::Set(d, query.head_weight[head]), dot, acc);
      };
      add(s0, h);
      if (rows > 1) add(s1, h + 1);
      if (rows > 2) add(s2, h + 2);
      if (rows > 3) add(s3, h + 3);
    }
    const auto scores = hn::Mul(hn::LoadU(d, key_scale + part), acc);
    if (hn::AllFalse(d, hn::Gt(scores, hn::Set(d, query.top->threshold())))) continue;
    HWY_ALIGN float values[16];
    hn::Store(scores, d, values);
    for (int64_t i = 0; i < lanes; ++i) {
      const int64_t key = first_key + part + i;
      if (key >= query.begin && key < query.end && values[i] > query.top->threshold()) {
        query.top->Add(values[i], key);
      }
    }
  }
}

#endif

// Scans the keys of `count` queries; every entry that can be among a query's k best stays in its top.
void ScanKeys(const GateKeyView& keys, const ScanQuery* queries, int64_t count, int64_t heads, int64_t size) {
  int64_t begin = keys.num_keys;
  int64_t end = 0;
  for (int64_t i = 0; i < count; ++i) {
    begin = std::min(begin, queries[i].begin);
    end = std::max(end, queries[i].end);
  }
  const int8_t* packed = static_cast<const int8_t*>(keys.packed.raw());
  const uint16_t* scale_bits = static_cast<const uint16_t*>(keys.scale.raw());
  HWY_ALIGN float scale[kBlockGroups * kGroup];
  const int64_t block_keys = kBlockGroups * kGroup;
  for (int64_t block = begin / kGroup * kGroup; block < end; block += block_keys) {
    const int64_t block_end = std::min(block + block_keys, (end + kGroup - 1) / kGroup * kGroup);
    for (int64_t s = block; s < block_end; ++s) {
      scale[s - block] = s < keys.num_keys ? FloatFromF16(scale_bits[s]) : 0.0f;
    }
    for (int64_t i = 0; i < count; ++i) {
      const ScanQuery& query = queries[i];
      const int64_t from = std::max(block, query.begin / kGroup * kGroup);
      const int64_t to = std::min(block_end, query.end);
      for (int64_t s = from; s < to; s += kGroup) {
        ScanGroup(packed + s * size, scale + (s - block), s, query, heads, size);
        query.top->CompactIfFull();
      }
    }
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(ScanKeys);

namespace {

// Few queries over many keys are split over ranges of keys, so that one decode step uses all threads.
constexpr int64_t kSplitBelowQueries = 16;
constexpr int64_t kSplits = 8;
constexpr int64_t kMinSplitKeys = 4096;

// Queries [begin, end) rounded to codes.
struct TileQueries {
  std::vector<int16_t> codes;
  std::vector<float> head_weight;
  ScanQuery scan[kTileQueries];

  TileQueries(const SelectKeysArgs& args, int64_t begin, int64_t end) {
    const int64_t heads = args.gq.dim(1);
    const int64_t size = args.gq.dim(2);
    codes.resize(static_cast<size_t>((end - begin) * heads * size));
    head_weight.resize(static_cast<size_t>((end - begin) * heads));
    for (int64_t t = begin; t < end; ++t) {
      ScanQuery& query = scan[t - begin];
      int16_t* query_codes = codes.data() + (t - begin) * heads * size;
      float* weight = head_weight.data() + (t - begin) * heads;
      for (int64_t h = 0; h < heads; ++h) {
        const float scale = RoundGateQuery(args.gq.row<float>(t) + h * size, size, query_codes + h * size);
        weight[h] = GateHeadWeight(args.gw.row<float>(t)[h]) * scale;
      }
      query.codes = query_codes;
      query.head_weight = weight;
      query.begin = args.span.SinksEnd(t);
      query.end = args.span.WindowBegin(t);
    }
  }
};

// The `width` best entries to the two ascending parts of a row of candidates.
void WriteCandidates(std::vector<uint64_t>& entries, int64_t num_selected, int64_t width, int32_t* row) {
  const auto best = std::min<size_t>(entries.size(), static_cast<size_t>(width));
  const auto chosen = std::min<size_t>(best, static_cast<size_t>(num_selected));
  std::partial_sort(entries.begin(), entries.begin() + static_cast<int64_t>(best), entries.end(),
                    std::greater<>());
  std::fill_n(row, width, -1);
  const auto position = [&](size_t i) {
    return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(entries[i]));
  };
  for (size_t i = 0; i < chosen; ++i) row[i] = position(i);
  for (size_t i = chosen; i < best; ++i) row[static_cast<size_t>(num_selected) + i - chosen] = position(i);
  std::sort(row, row + chosen);
  std::sort(row + num_selected, row + num_selected + (best - chosen));
}

void SelectSplit(const SelectKeysArgs& args) {
  const int64_t width = args.candidates.dim(1);
  const int64_t tokens = args.gq.dim(0);
  std::vector<TopEntries> tops(static_cast<size_t>(tokens * kSplits));
  ParallelFor(tokens * kSplits, [&](int64_t task) {
    const int64_t t = task / kSplits;
    const int64_t split = task % kSplits;
    TileQueries tile(args, t, t + 1);
    ScanQuery& query = tile.scan[0];
    query.top = &tops[static_cast<size_t>(task)];
    query.top->Reset(width);
    const int64_t begin = query.begin;
    const int64_t count = query.end - begin;
    query.begin = begin + count * split / kSplits;
    query.end = begin + count * (split + 1) / kSplits;
    HWY_DYNAMIC_DISPATCH(ScanKeys)(args.keys, tile.scan, 1, args.gq.dim(1), args.gq.dim(2));
    query.top->Compact();
  });
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<uint64_t> entries;
    for (int64_t split = 0; split < kSplits; ++split) {
      const std::vector<uint64_t>& part = tops[static_cast<size_t>(t * kSplits + split)].entries();
      entries.insert(entries.end(), part.begin(), part.end());
    }
    WriteCandidates(entries, args.num_selected, width, args.candidates.row<int32_t>(t));
  }
}

}  // namespace

void CpuOps::SelectKeys(const SelectKeysArgs& args) {
  const int64_t tokens = args.gq.dim(0);
  const int64_t width = args.candidates.dim(1);
  if (tokens == 0 || width == 0) return;
  if (tokens < kSplitBelowQueries && args.span.NumFar(tokens - 1) >= kMinSplitKeys) return SelectSplit(args);
  ParallelForRange(tokens, kTileQueries, [&](int64_t begin, int64_t end) {
    TileQueries tile(args, begin, end);
    TopEntries tops[kTileQueries];
    for (int64_t t = begin; t < end; ++t) {
      tops[t - begin].Reset(width);
      tile.scan[t - begin].top = &tops[t - begin];
    }
    HWY_DYNAMIC_DISPATCH(ScanKeys)(args.keys, tile.scan, end - begin, args.gq.dim(1), args.gq.dim(2));
    for (int64_t t = begin; t < end; ++t) {
      WriteCandidates(tops[t - begin].entries(), args.num_selected, width, args.candidates.row<int32_t>(t));
    }
  });
}

}  // namespace sluice
#endif  // HWY_ONCE
