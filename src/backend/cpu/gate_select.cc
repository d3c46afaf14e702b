// Exact selection of the highest-scoring far keys: one scan over the packed int8 keys with the filter
// fused in. 16 keys are the lanes of a vector; a pair of channels is one multiply-add of 16-bit
// products into 32 bits, so dot products are exact; the float part follows ops/gate_numerics.h bit for
// bit. Scores are never negative, so a score's bits order as an integer: an entry is (score bits,
// complement of the position), and the largest entries are the highest scores, ties to the lower
// position. Each query keeps a buffer of entries above a running threshold and halves it when full.
// With a tree, the landmarks and the chosen leaves' keys are scored by the same kernels.
#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/gate_scan.h"
#include "base/threads.h"
#include "hwy/aligned_allocator.h"
#include "ops/gate.h"
#include "ops/gate_numerics.h"
#include "ops/gate_tree_numerics.h"

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

using gate_scan::kGroup;
using gate_scan::ScanQuery;
using gate_scan::TopEntries;

constexpr int64_t kBlockGroups = 32;  // Groups of 16 keys per block: 16 KiB of codes at size 32.
constexpr int64_t kFetchAhead = 4;    // Groups of a tree that are fetched before they are scored.
constexpr int64_t kFirstKeys = 4096;  // Of a query, all scored exactly; a multiple of a block.
}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// Exact scores of 16 keys at `packed` (one group), by the rule of gate_numerics.h.
#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

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

#else

using KeyTag = hn::CappedTag<float, 16>;
using DotTag = hn::RebindToSigned<KeyTag>;
using DotVec = hn::Vec<DotTag>;

// Dot products of two vectors of keys with one head.
struct DotPair {
  DotVec a, b;
};

// Adds the products of a pair of channels.
template <bool kTwo, class Codes>
HWY_INLINE DotPair AddPair(const int16_t* query, Codes keys_a, Codes keys_b, DotPair sum) {
  const DotTag di;
  const hn::Repartition<int16_t, DotTag> dw;
  int32_t both;
  std::memcpy(&both, query, sizeof(both));
  const Codes pair = hn::BitCast(dw, hn::Set(di, both));
  DotVec unused = hn::Zero(di);
  sum.a = hn::ReorderWidenMulAccumulate(di, keys_a, pair, sum.a, unused);
  if constexpr (kTwo) sum.b = hn::ReorderWidenMulAccumulate(di, keys_b, pair, sum.b, unused);
  return sum;
}

// Scores of a vector of keys whose codes begin at `packed`, and, with kTwo, of one `offset` bytes on.
template <bool kTwo>
HWY_INLINE void VectorScores(const int8_t* packed, int64_t offset, const float* key_scale,
                             const ScanQuery& query, int64_t heads, int64_t size, float* scores) {
  const KeyTag d;
  const DotTag di;
  const hn::Repartition<int16_t, DotTag> dw;
  const hn::Rebind<int8_t, decltype(dw)> db;
  auto acc_a = hn::Zero(d);
  auto acc_b = acc_a;
  for (int64_t h = 0; h < heads; h += 4) {
    const int64_t rows = std::min<int64_t>(4, heads - h);
    const int16_t* q0 = query.codes + h * size;
    const int16_t* q1 = q0 + (rows > 1 ? size : 0);
    const int16_t* q2 = q0 + (rows > 2 ? 2 * size : 0);
    const int16_t* q3 = q0 + (rows > 3 ? 3 * size : 0);
    const DotVec zero = hn::Zero(di);
    DotPair s0{zero, zero}, s1 = s0, s2 = s0, s3 = s0;
    for (int64_t c = 0; c < size; c += 2) {
      const auto keys_a = hn::PromoteTo(dw, hn::LoadU(db, packed + c * kGroup));
      const auto keys_b = kTwo ? hn::PromoteTo(dw, hn::LoadU(db, packed + offset + c * kGroup)) : keys_a;
      s0 = AddPair<kTwo>(q0 + c, keys_a, keys_b, s0);
      s1 = AddPair<kTwo>(q1 + c, keys_a, keys_b, s1);
      s2 = AddPair<kTwo>(q2 + c, keys_a, keys_b, s2);
      s3 = AddPair<kTwo>(q3 + c, keys_a, keys_b, s3);
    }
    const auto add = [&](const DotPair& sum, int64_t head) HWY_ATTR {
      const auto weight = hn::Set(d, query.head_weight[head]);
      acc_a = hn::MulAdd(weight, hn::ConvertTo(d, hn::Max(sum.a, zero)), acc_a);
      if constexpr (kTwo) acc_b = hn::MulAdd(weight, hn::ConvertTo(d, hn::Max(sum.b, zero)), acc_b);
    };
    add(s0, h);
    if (rows > 1) add(s1, h + 1);
    if (rows > 2) add(s2, h + 2);
    if (rows > 3) add(s3, h + 3);
  }
  constexpr int64_t kLanes = HWY_MAX_BYTES / 4;
  hn::StoreU(hn::Mul(hn::LoadU(d, key_scale), acc_a), d, scores);
  if constexpr (kTwo) hn::StoreU(hn::Mul(hn::LoadU(d, key_scale + kLanes), acc_b), d, scores + kLanes);
}

HWY_INLINE void GroupScores(const int8_t* packed, const float* key_scale, const ScanQuery& query,
                            int64_t heads, int64_t size, float* scores) {
  VectorScores<(HWY_MAX_BYTES < 64)>(packed, kGroup, key_scale, query, heads, size, scores);
}

#endif

// Bit i: whether scores[i] is above the threshold.
HWY_INLINE uint32_t PassBits(const float* scores, float threshold) {
#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
  uint32_t bits = 0;
  for (int64_t i = 0; i < kGroup; ++i) bits |= static_cast<uint32_t>(scores[i] > threshold) << i;
  return bits;
#else
  const KeyTag d;
  constexpr int64_t kLanes = HWY_MAX_BYTES / 4;
  uint32_t bits = 0;
  for (int64_t i = 0; i < kGroup; i += kLanes) {
    uint8_t mask[8] = {};
    hn::StoreMaskBits(d, hn::Gt(hn::Load(d, scores + i), hn::Set(d, threshold)), mask);
    bits |= (static_cast<uint32_t>(mask[0]) | static_cast<uint32_t>(mask[1]) << 8) << i;
  }
  return bits;
#endif
}

// Scores one group exactly and keeps what is above the query's threshold.
HWY_INLINE void ScanGroup(const int8_t* packed, const float* key_scale, int64_t first_key,
                          const ScanQuery& query, int64_t heads, int64_t size) {
  HWY_ALIGN float scores[kGroup];
  GroupScores(packed, key_scale, query, heads, size, scores);
  uint32_t bits = PassBits(scores, query.top->threshold());
  if (bits == 0) return;
  if (first_key < query.begin) bits &= 0xffffffffu << (query.begin - first_key);
  if (first_key + kGroup > query.end) bits &= (1u << (query.end - first_key)) - 1;
  for (; bits != 0; bits &= bits - 1) {
    const int i = std::countr_zero(bits);
    query.top->Add(scores[i], first_key + i);
  }
  query.top->CompactIfFull();
}

#if HWY_TARGET == HWY_AVX3

// Highway's target for AVX-512 has no 8-bit dot products; these functions add them.
#define SLUICE_TARGET_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")))

HWY_ALIGN constexpr uint16_t kInterleave[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};

// Four channels of a group's keys for vpdpbusd: [16 keys][4], codes + 128 so that they are unsigned; a
// missing last pair is code 0. `channel` is a multiple of 4.
SLUICE_TARGET_VNNI HWY_INLINE __m512i Quad(const int8_t* packed, int64_t channel, int64_t size) {
  const int8_t* codes = packed + channel * kGroup;
  const __m512i pairs =
      channel + 4 <= size
          ? _mm512_loadu_si512(codes)
          : _mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
  return _mm512_xor_si512(_mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), pairs),
                          _mm512_set1_epi8(static_cast<char>(0x80)));
}

// All quads of a group, [size / 4 rounded up][16 keys][4]: for several queries.
SLUICE_TARGET_VNNI void MakeQuads(const int8_t* packed, int64_t size, uint8_t* quads) {
  for (int64_t c = 0; c < size; c += 4) _mm512_store_si512(quads + c * kGroup, Quad(packed, c, size));
}

// The first group in [group, end) that may hold a score above the query's threshold, by the bound of
// MayPass below; for a query that reads each group once, so that quads never leave the registers.
SLUICE_TARGET_VNNI int64_t NextMayPass(const int8_t* packed, const float* key_scale, const ScanQuery& query,
                                       int64_t heads, int64_t size, int64_t group, int64_t end) {
  const int64_t num_quads = (size + 3) / 4;
  const __m512 threshold = _mm512_set1_ps(query.top->threshold());
  for (; group < end; ++group) {
    const int8_t* codes = packed + group * kGroup * size;
    __m512 bound = _mm512_setzero_ps();
    for (int64_t h = 0; h < heads; h += 4) {
      const int64_t rows = std::min<int64_t>(4, heads - h);
      const int32_t* coarse[4];
      __m512i sum[4];
      HWY_UNROLL(4)
      for (int r = 0; r < 4; ++r) {
        const int64_t head = r < rows ? h + r : h;
        coarse[r] = query.coarse + head * num_quads;
        sum[r] = _mm512_set1_epi32(query.coarse_init[head]);
      }
      for (int64_t i = 0; i < num_quads; ++i) {
        const __m512i keys = Quad(codes, 4 * i, size);
        HWY_UNROLL(4)
        for (int r = 0; r < 4; ++r)
          sum[r] = _mm512_dpbusd_epi32(sum[r], keys, _mm512_set1_epi32(coarse[r][i]));
      }
      HWY_UNROLL(4)
      for (int r = 0; r < 4; ++r) {
        const __m512 weight = r < rows ? _mm512_set1_ps(query.coarse_weight[h + r]) : _mm512_setzero_ps();
        const __m512i positive = _mm512_max_epi32(sum[r], _mm512_setzero_si512());
        bound = _mm512_fmadd_ps(weight, _mm512_cvtepi32_ps(positive), bound);
      }
    }
    const __m512 score = _mm512_mul_ps(_mm512_load_ps(key_scale + group * kGroup), bound);
    if (_mm512_cmp_ps_mask(score, threshold, _CMP_GT_OQ) != 0) break;
  }
  return group;
}

// Bit g of the result: whether group g of 4 may hold a score above the query's threshold. With
// query = 128 coarse + rest, a dot product is at most 128 (coarse · key) + 127 Σ|rest|; every step that
// follows is monotone in it, rounding included, so no score above the threshold is missed.
SLUICE_TARGET_VNNI uint32_t MayPass(const uint8_t* quads, const float* key_scale, const ScanQuery& query,
                                    int64_t heads, int64_t size) {
  const int64_t num_quads = (size + 3) / 4;
  const int64_t group_bytes = num_quads * 4 * kGroup;
  __m512 bound[4];
  HWY_UNROLL(4)
  for (int g = 0; g < 4; ++g) bound[g] = _mm512_setzero_ps();
  for (int64_t h = 0; h < heads; h += 2) {
    const int64_t second = h + 1 < heads ? h + 1 : h;
    __m512i sum[2][4];
    HWY_UNROLL(4)
    for (int g = 0; g < 4; ++g) {
      sum[0][g] = _mm512_set1_epi32(query.coarse_init[h]);
      sum[1][g] = _mm512_set1_epi32(query.coarse_init[second]);
    }
    const int32_t* q0 = query.coarse + h * num_quads;
    const int32_t* q1 = query.coarse + second * num_quads;
    for (int64_t i = 0; i < num_quads; ++i) {
      const __m512i c0 = _mm512_set1_epi32(q0[i]);
      const __m512i c1 = _mm512_set1_epi32(q1[i]);
      HWY_UNROLL(4)
      for (int g = 0; g < 4; ++g) {
        const __m512i keys = _mm512_load_si512(quads + g * group_bytes + i * 64);
        sum[0][g] = _mm512_dpbusd_epi32(sum[0][g], keys, c0);
        sum[1][g] = _mm512_dpbusd_epi32(sum[1][g], keys, c1);
      }
    }
    const __m512 w0 = _mm512_set1_ps(query.coarse_weight[h]);
    const __m512 w1 = second > h ? _mm512_set1_ps(query.coarse_weight[second]) : _mm512_setzero_ps();
    HWY_UNROLL(4)
    for (int g = 0; g < 4; ++g) {
      const __m512i zero = _mm512_setzero_si512();
      bound[g] = _mm512_fmadd_ps(w0, _mm512_cvtepi32_ps(_mm512_max_epi32(sum[0][g], zero)), bound[g]);
      bound[g] = _mm512_fmadd_ps(w1, _mm512_cvtepi32_ps(_mm512_max_epi32(sum[1][g], zero)), bound[g]);
    }
  }
  const __m512 threshold = _mm512_set1_ps(query.top->threshold());
  uint32_t result = 0;
  HWY_UNROLL(4)
  for (int g = 0; g < 4; ++g) {
    const __m512 score = _mm512_mul_ps(_mm512_load_ps(key_scale + g * kGroup), bound[g]);
    result |= static_cast<uint32_t>(_mm512_cmp_ps_mask(score, threshold, _CMP_GT_OQ) != 0) << g;
  }
  return result;
}

#endif

// scale[0 .. count), then zeros up to `size`; exact.
HWY_INLINE void WidenScales(const uint16_t* bits, int64_t count, int64_t size, float* HWY_RESTRICT scale) {
  int64_t i = 0;
#if HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR
  const KeyTag d;
  const hn::Rebind<hwy::float16_t, KeyTag> dh;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (; i + lanes <= count; i += lanes) {
    const auto half = hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(bits + i));
    hn::Store(hn::PromoteTo(d, half), d, scale + i);
  }
#endif
  for (; i < count; ++i) scale[i] = FloatFromF16(bits[i]);
  std::fill(scale + i, scale + size, 0.0f);
}

// How many of scores [n rounded up to 16] are above `threshold`.
HWY_INLINE int64_t CountAbove(const float* HWY_RESTRICT scores, int64_t n, float threshold) {
  const FloatTag d;
  const FloatVec limit = hn::Set(d, threshold);
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
    count += static_cast<int64_t>(hn::CountTrue(d, hn::Gt(hn::Load(d, scores + i), limit)));
  }
  return count;
}

// A value that at least k, and not many more, of the scores are above (-1 if there are fewer than k), by
// bisection of the bits. Scores past the last are -1.
HWY_INLINE float LowerBoundOfBest(const float* HWY_RESTRICT scores, int64_t n, int64_t k) {
  if (n <= k || CountAbove(scores, n, 0.0f) < k) return -1.0f;
  const FloatTag d;
  FloatVec top = hn::Zero(d);
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d)))
    top = hn::Max(top, hn::Load(d, scores + i));
  uint32_t low = 0;
  uint32_t high = std::bit_cast<uint32_t>(HorizontalMax(d, top));
  while (high - low > 1) {
    // In the middle of the values at first, which is where they are dense; then of the bits.
    const float low_value = std::bit_cast<float>(low);
    const float middle_value = low_value + 0.5f * (std::bit_cast<float>(high) - low_value);
    uint32_t middle = std::bit_cast<uint32_t>(middle_value);
    if (!(middle > low && middle < high)) middle = low + (high - low) / 2;
    const int64_t count = CountAbove(scores, n, std::bit_cast<float>(middle));
    if (count >= k) low = middle;
    if (count < k) high = middle;
    if (count >= k && count < k + gate_scan::kExtraEntries / 2) break;
  }
  return std::bit_cast<float>(low);
}

// The first keys of a query, up to a group boundary: nothing can be left out before k of them have been
// scored, so that all are, exactly; unless an earlier search found k. Returns the key to go on from.
HWY_INLINE int64_t ScanFirstKeys(const int8_t* packed, const uint16_t* scale_bits, const ScanQuery& query,
                                 int64_t heads, int64_t size, float* HWY_RESTRICT scores) {
  const int64_t first = query.begin / kGroup * kGroup;
  const int64_t last = std::min(first + kFirstKeys, (query.end + kGroup - 1) / kGroup * kGroup);
  if (query.begin >= query.end) return query.end;
  if (query.top->full()) return query.begin;
  HWY_ALIGN float scale[kBlockGroups * kGroup];
  for (int64_t block = first; block < last; block += kBlockGroups * kGroup) {
    const int64_t block_end = std::min(block + kBlockGroups * kGroup, last);
    WidenScales(scale_bits + block, std::min(block_end, query.end) - block, kBlockGroups * kGroup, scale);
    int64_t s = block;
#if HWY_TARGET == HWY_AVX3
    for (; s + 2 * kGroup <= block_end; s += 2 * kGroup) {
      VectorScores<true>(packed + s * size, kGroup * size, scale + (s - block), query, heads, size,
                         scores + (s - first));
    }
#endif
    for (; s < block_end; s += kGroup) {
      GroupScores(packed + s * size, scale + (s - block), query, heads, size, scores + (s - first));
    }
  }
  std::fill(scores, scores + (query.begin - first), -1.0f);
  if (query.end < last) std::fill(scores + (query.end - first), scores + (last - first), -1.0f);
  const float bound = LowerBoundOfBest(scores, last - first, query.top->k());
  for (int64_t s = first; s < last; s += kGroup) {
    uint32_t bits = PassBits(scores + (s - first), std::max(bound, query.top->threshold()));
    for (; bits != 0; bits &= bits - 1) {
      const int i = std::countr_zero(bits);
      query.top->Add(scores[s - first + i], s + i);
    }
    query.top->CompactIfFull();
  }
  query.top->Compact();
  return last;
}

// Scans the keys of `count` queries; every entry that can be among a query's k best stays in its top.
void ScanKeys(const GateKeyView& keys, ScanQuery* queries, int64_t count, int64_t heads, int64_t size) {
  const int8_t* packed = static_cast<const int8_t*>(keys.packed.raw());
  const uint16_t* scale_bits = static_cast<const uint16_t*>(keys.scale.raw());
  const auto first_scores = hwy::AllocateAligned<float>(kFirstKeys);
  int64_t begin = keys.num_keys;
  int64_t end = 0;
  for (int64_t i = 0; i < count; ++i) {
    queries[i].begin = ScanFirstKeys(packed, scale_bits, queries[i], heads, size, first_scores.get());
    begin = std::min(begin, queries[i].begin);
    end = std::max(end, queries[i].end);
  }
  HWY_ALIGN float scale[kBlockGroups * kGroup];
  const int64_t block_keys = kBlockGroups * kGroup;
#if HWY_TARGET == HWY_AVX3
  static const bool has_coarse = __builtin_cpu_supports("avx512vnni") > 0;
  const int64_t quad_bytes = (size + 3) / 4 * 4;  // Per key.
  const auto quads = hwy::AllocateAligned<uint8_t>(static_cast<size_t>(block_keys * quad_bytes));
  std::fill_n(quads.get(), block_keys * quad_bytes, uint8_t{0});
#endif
  for (int64_t block = begin / kGroup * kGroup; block < end; block += block_keys) {
    const int64_t block_end = std::min(block + block_keys, (end + kGroup - 1) / kGroup * kGroup);
    WidenScales(scale_bits + block, std::min(block_end, keys.num_keys) - block, block_keys, scale);
#if HWY_TARGET == HWY_AVX3
    for (int64_t s = block; has_coarse && count > 1 && s < block_end; s += kGroup) {
      MakeQuads(packed + s * size, size, quads.get() + (s - block) * quad_bytes);
    }
#endif
    for (int64_t i = 0; i < count; ++i) {
      const ScanQuery& query = queries[i];
      int64_t from = std::max(block, query.begin / kGroup * kGroup);
      const int64_t to = std::min(block_end, query.end);
#if HWY_TARGET == HWY_AVX3
      if (has_coarse && count == 1) {
        const int64_t end_group = (to - block + kGroup - 1) / kGroup;
        for (int64_t group = (from - block) / kGroup;; ++group) {
          group = NextMayPass(packed + block * size, scale, query, heads, size, group, end_group);
          if (group >= end_group) break;
          const int64_t first = block + group * kGroup;
          ScanGroup(packed + first * size, scale + group * kGroup, first, query, heads, size);
        }
      }
      // Four groups at a time; past the last of the block they read what an earlier block left there.
      constexpr int64_t kStep = 4 * kGroup;
      for (int64_t s = block + (from - block) / kStep * kStep; has_coarse && count > 1 && s < to;
           s += kStep) {
        uint32_t may_pass =
            MayPass(quads.get() + (s - block) * quad_bytes, scale + (s - block), query, heads, size);
        for (; may_pass != 0; may_pass &= may_pass - 1) {
          const int64_t first = s + std::countr_zero(may_pass) * kGroup;
          if (first < from || first >= to) continue;
          ScanGroup(packed + first * size, scale + (first - block), first, query, heads, size);
        }
      }
      if (has_coarse) from = to;
#endif
      for (int64_t s = from; s < to; s += kGroup) {
        ScanGroup(packed + s * size, scale + (s - block), s, query, heads, size);
      }
    }
  }
}

// Groups lie anywhere: one that will be scored soon is fetched. Always inlined: GCC drops calls of a function
// that does nothing but prefetch.
HWY_INLINE void FetchGroup(const int8_t* packed, int64_t bytes, const uint16_t* scale_bits) {
  for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(packed + byte, 0, 2);
  __builtin_prefetch(scale_bits, 0, 2);
}

// Exact scores of listed groups of 16 keys or landmarks, [count, 16].
void ScoreGroups(const GateKeyView& keys, const std::vector<int32_t>& groups, const ScanQuery& query,
                 int64_t heads, int64_t size, float* HWY_RESTRICT scores) {
  const int8_t* packed = static_cast<const int8_t*>(keys.packed.raw());
  const uint16_t* scale_bits = static_cast<const uint16_t*>(keys.scale.raw());
  const auto count = static_cast<int64_t>(groups.size());
  const int64_t bytes = kGroup * size;
  HWY_ALIGN float scale[2 * kGroup];
  int64_t i = 0;
#if HWY_TARGET == HWY_AVX3
  for (; i + 2 <= count; i += 2) {
    for (int64_t ahead = i + kFetchAhead; ahead < std::min(i + kFetchAhead + 2, count); ++ahead) {
      const int64_t group = groups[static_cast<size_t>(ahead)];
      FetchGroup(packed + group * bytes, bytes, scale_bits + group * kGroup);
    }
    const int64_t a = groups[static_cast<size_t>(i)], b = groups[static_cast<size_t>(i + 1)];
    WidenScales(scale_bits + a * kGroup, kGroup, kGroup, scale);
    WidenScales(scale_bits + b * kGroup, kGroup, kGroup, scale + kGroup);
    VectorScores<true>(packed + a * bytes, (b - a) * bytes, scale, query, heads, size, scores + i * kGroup);
  }
#endif
  for (; i < count; ++i) {
    const int64_t group = groups[static_cast<size_t>(i)];
    WidenScales(scale_bits + group * kGroup, kGroup, kGroup, scale);
    GroupScores(packed + group * bytes, scale, query, heads, size, scores + i * kGroup);
  }
}

// The `beam` best of the landmarks in the listed groups of 16, in the groups' order. scores: [groups, 16].
std::vector<int32_t> BestLandmarks(const std::vector<int32_t>& groups, int64_t beam,
                                   const float* HWY_RESTRICT scores) {
  const int64_t count = static_cast<int64_t>(groups.size()) * kGroup;
  const float bound = LowerBoundOfBest(scores, count, beam);
  std::vector<uint64_t> entries;
  for (int64_t i = 0; i < count; i += kGroup) {
    const int64_t first = groups[static_cast<size_t>(i / kGroup)] * kGroup;
    for (uint32_t bits = PassBits(scores + i, bound); bits != 0; bits &= bits - 1) {
      const int lane = std::countr_zero(bits);
      entries.push_back(gate_scan::MakeEntry(scores[i + lane], first + lane));
    }
  }
  gate_scan::KeepBest(entries, beam);
  std::vector<int32_t> best;
  best.reserve(entries.size());
  for (const uint64_t entry : entries) best.push_back(gate_scan::EntryIndex(entry));
  return best;
}

// The `beam` best nodes of the ranges.
std::vector<int32_t> BestNodes(const GateTreeSearch& search, const std::vector<GateTreeRange>& ranges,
                               const ScanQuery& landmark_query, int64_t heads, int64_t size) {
  std::vector<int32_t> nodes;   // All,
  std::vector<int32_t> groups;  // and the groups of 16 that they are in.
  for (const GateTreeRange& range : ranges) {
    const int64_t begin = range.first_slot / GateTreeView::kNode;
    const int64_t end = begin + range.num_slots / GateTreeView::kNode;
    for (int64_t node = begin; node < end; ++node) nodes.push_back(static_cast<int32_t>(node));
    for (int64_t group = begin / kGroup; group * kGroup < end; ++group)
      groups.push_back(static_cast<int32_t>(group));
  }
  if (std::ssize(nodes) <= search.beam) return nodes;
  const auto all_scores = hwy::AllocateAligned<float>(groups.size() * kGroup);
  ScoreGroups(search.tree.nodes, groups, landmark_query, heads, size + 2, all_scores.get());
  // A group of 16 may also hold nodes of another level, or of groups that were not closed.
  const auto scores = hwy::AllocateAligned<float>(groups.size() * kGroup);
  std::fill_n(scores.get(), groups.size() * kGroup, -1.0f);
  size_t node = 0;
  for (size_t i = 0; i < groups.size(); ++i) {
    for (; node < nodes.size() && nodes[node] / kGroup == groups[i]; ++node) {
      const size_t at = i * kGroup + static_cast<size_t>(nodes[node] % kGroup);
      scores[at] = all_scores[at];
    }
  }
  return BestLandmarks(groups, search.beam, scores.get());
}

// Searches the ranges of a tree; the best of the keys that it arrives at, from query.begin on, go into
// query.top, in no order. `landmark_query` has heads of size + 2.
void SearchTree(const GateTreeSearch& search, const std::vector<GateTreeRange>& ranges,
                const ScanQuery& landmark_query, const ScanQuery& query, int64_t heads, int64_t size) {
  const GateTreeView& tree = search.tree;
  const std::vector<int32_t> nodes = BestNodes(search, ranges, landmark_query, heads, size);
  const auto leaf_scores = hwy::AllocateAligned<float>(nodes.size() * kGroup);
  ScoreGroups(tree.leaves, nodes, landmark_query, heads, size + 2, leaf_scores.get());
  const std::vector<int32_t> leaves = BestLandmarks(nodes, search.beam, leaf_scores.get());
  const auto count = static_cast<int64_t>(leaves.size()) * kGroup;
  const auto key_scores = hwy::AllocateAligned<float>(static_cast<size_t>(count));
  ScoreGroups(tree.keys, leaves, query, heads, size, key_scores.get());
  const int32_t* order = static_cast<const int32_t*>(tree.order.raw());
  for (int64_t i = 0; i < count; i += kGroup) {
    const int32_t* keys = order + leaves[static_cast<size_t>(i / kGroup)] * kGroup;
    for (int64_t lane = 0; lane < kGroup && keys[lane] < query.begin; ++lane) key_scores[i + lane] = -1.0f;
  }
  const float bound = LowerBoundOfBest(key_scores.get(), count, query.top->k());
  for (int64_t i = 0; i < count; i += kGroup) {
    const int32_t* keys = order + leaves[static_cast<size_t>(i / kGroup)] * kGroup;
    for (uint32_t bits = PassBits(key_scores.get() + i, bound); bits != 0; bits &= bits - 1) {
      const int lane = std::countr_zero(bits);
      query.top->Add(key_scores[i + lane], keys[lane]);
    }
  }
  query.top->Compact();
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(ScanKeys);
HWY_EXPORT(SearchTree);

namespace {

using gate_scan::QueryCodes;

constexpr int64_t kTileQueries = 32;  // Queries that share a key block while it is in L1.
// Few queries over many keys are split over ranges of keys, so that one decode step uses all threads.
// The result does not depend on the split: the best of all parts' best are the best.
constexpr int64_t kSplitBelowQueries = 16;
constexpr int64_t kMinSplitKeys = 4096;

// A query of SelectKeys: the part of the tree that it searches, and the keys that it scans.
struct SelectQuery {
  std::vector<GateTreeRange> ranges;
  int64_t first_far;   // Of all its far keys.
  int64_t scan_begin;  // Of those that it scans.
  int64_t scan_end;
  QueryCodes codes;
  std::optional<QueryCodes> landmark_codes;

  SelectQuery(const SelectKeysArgs& args, int64_t t)
      : ranges(GateTreeRanges(args.search, args.span.WindowBegin(t))),
        first_far(args.span.SinksEnd(t)),
        scan_begin(std::max(first_far, ranges.empty() ? 0 : ranges.back().key_end)),
        scan_end(args.span.WindowBegin(t)),
        codes(args.gq.row<float>(t), args.gw.row<float>(t), args.gq.dim(1), args.gq.dim(2)) {
    if (ranges.empty()) return;
    const int64_t heads = args.gq.dim(1);
    const int64_t size = args.gq.dim(2);
    std::vector<float> extended(static_cast<size_t>(heads * (size + 2)));
    for (int64_t h = 0; h < heads; ++h) {
      ExtendGateQuery(args.gq.row<float>(t) + h * size, size, extended.data() + h * (size + 2));
    }
    landmark_codes.emplace(extended.data(), args.gw.row<float>(t), heads, size + 2);
  }

  void Search(const SelectKeysArgs& args, TopEntries* top) const {
    HWY_DYNAMIC_DISPATCH(SearchTree)
    (args.search, ranges, landmark_codes->Over(0, 0, nullptr), codes.Over(first_far, scan_end, top),
     args.gq.dim(1), args.gq.dim(2));
  }
};

// The best entries to the two ascending parts of row t.
void WriteCandidates(std::vector<uint64_t> entries, const SelectKeysArgs& args, int64_t t) {
  const int64_t num_selected = args.num_selected;
  const int64_t width = args.candidates.dim(1);
  const auto by_index = [](uint64_t a, uint64_t b) {
    return gate_scan::EntryIndex(a) < gate_scan::EntryIndex(b);
  };
  if (!std::is_sorted(entries.begin(), entries.end(), by_index)) {
    std::sort(entries.begin(), entries.end(), by_index);
  }
  const auto rank = [&](int64_t k) {
    return k < std::ssize(entries) ? gate_scan::RankedEntry(entries, k) : 0;
  };
  const uint64_t last_chosen = num_selected > 0 ? rank(num_selected) : ~uint64_t{0};
  const uint64_t last = width > num_selected ? rank(width) : last_chosen;
  int32_t* row = args.candidates.row<int32_t>(t);
  float* scores = args.scores.present() ? args.scores.row<float>(t) : nullptr;
  std::fill_n(row, width, -1);
  if (scores != nullptr) std::fill_n(scores, width, 0.0f);
  int64_t chosen = 0;
  int64_t others = num_selected;
  for (const uint64_t entry : entries) {
    if (entry < last) continue;
    const int64_t i = entry >= last_chosen ? chosen++ : others++;
    row[i] = gate_scan::EntryIndex(entry);
    if (scores != nullptr) scores[i] = gate_scan::EntryScore(entry);
  }
}

// One query, its tree and parts of its scan side by side.
void SelectSplit(const SelectKeysArgs& args, int64_t t) {
  const SelectQuery query(args, t);
  const int64_t num_keys = std::max<int64_t>(query.scan_end - query.scan_begin, 0);
  const int64_t parts = num_keys >= kMinSplitKeys ? NumThreads() : 1;
  const int64_t searches = query.ranges.empty() ? 0 : 1;
  std::vector<TopEntries> tops(static_cast<size_t>(searches + parts));
  ParallelFor(searches + parts, [&](int64_t task) {
    TopEntries& top = tops[static_cast<size_t>(task)];
    top.Reset(args.candidates.dim(1));
    if (task < searches) return query.Search(args, &top);
    const int64_t part = task - searches;
    ScanQuery scan = query.codes.Over(query.scan_begin + num_keys * part / parts,
                                      query.scan_begin + num_keys * (part + 1) / parts, &top);
    HWY_DYNAMIC_DISPATCH(ScanKeys)(args.keys, &scan, 1, args.gq.dim(1), args.gq.dim(2));
    top.Compact();
  });
  std::vector<uint64_t> entries;
  for (const TopEntries& top : tops)
    entries.insert(entries.end(), top.entries().begin(), top.entries().end());
  WriteCandidates(std::move(entries), args, t);
}

// Neighbouring queries: each searches the tree, and all go over the blocks of the other keys together.
void SelectTile(const SelectKeysArgs& args, int64_t begin, int64_t end) {
  std::vector<SelectQuery> queries;
  std::vector<TopEntries> tops(static_cast<size_t>(end - begin));
  std::vector<ScanQuery> scans;
  for (int64_t t = begin; t < end; ++t) {
    TopEntries& top = tops[static_cast<size_t>(t - begin)];
    top.Reset(args.candidates.dim(1));
    const SelectQuery& query = queries.emplace_back(args, t);
    if (!query.ranges.empty()) query.Search(args, &top);
    scans.push_back(query.codes.Over(query.scan_begin, query.scan_end, &top));
  }
  HWY_DYNAMIC_DISPATCH(ScanKeys)(args.keys, scans.data(), end - begin, args.gq.dim(1), args.gq.dim(2));
  for (int64_t t = begin; t < end; ++t) {
    WriteCandidates(tops[static_cast<size_t>(t - begin)].entries(), args, t);
  }
}

}  // namespace

void CpuOps::SelectKeys(const SelectKeysArgs& args) {
  const int64_t tokens = args.gq.dim(0);
  if (tokens == 0 || args.candidates.dim(1) == 0) return;
  if (tokens < kSplitBelowQueries && args.span.NumFar(tokens - 1) >= kMinSplitKeys) {
    for (int64_t t = 0; t < tokens; ++t) SelectSplit(args, t);
    return;
  }
  ParallelForRange(tokens, kTileQueries, [&](int64_t begin, int64_t end) { SelectTile(args, begin, end); });
}

}  // namespace sluice
#endif  // HWY_ONCE
