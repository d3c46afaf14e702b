// Exact scores of groups of 16 packed gate keys, and the bounds that pick the best of them without sorting:
// for the scan (gate_scan.cc) and for the tree's search (gate_tree_search.cc).
//
// 16 keys are the lanes of a vector; a pair of channels is one multiply-add of 16-bit products into 32 bits,
// so that dot products are exact; the float part follows ops/gate_numerics.h bit for bit. Included like
// head_kernels-inl.h.
#if defined(SLUICE_BACKEND_CPU_GATE_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SLUICE_BACKEND_CPU_GATE_SCORES_INL_H_
#undef SLUICE_BACKEND_CPU_GATE_SCORES_INL_H_
#else
#define SLUICE_BACKEND_CPU_GATE_SCORES_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "backend/cpu/gate_scan.h"
#include "backend/cpu/simd_math.h"
#include "hwy/highway.h"
#include "ops/gate_numerics.h"

HWY_BEFORE_NAMESPACE();
namespace sluice {
namespace HWY_NAMESPACE {

using gate_scan::kGroup;
using gate_scan::ScanQuery;

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

#if HWY_TARGET == HWY_AVX3

// Highway's target for AVX-512 has no dot products that accumulate; functions with this attribute have them.
#define SLUICE_TARGET_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")))

inline bool HasVnni() {
  static const bool has_vnni = __builtin_cpu_supports("avx512vnni") > 0;
  return has_vnni;
}

// VectorScores<true> with a pair of channels in one instruction.
SLUICE_TARGET_VNNI inline void VnniScores(const int8_t* packed, int64_t offset, const float* key_scale,
                                          const ScanQuery& query, int64_t heads, int64_t size,
                                          float* scores) {
  __m512 acc_a = _mm512_setzero_ps();
  __m512 acc_b = _mm512_setzero_ps();
  for (int64_t h = 0; h < heads; h += 4) {
    const int64_t rows = std::min<int64_t>(4, heads - h);
    const int16_t* codes[4];
    __m512i sum_a[4], sum_b[4];
    HWY_UNROLL(4)
    for (int r = 0; r < 4; ++r) {
      codes[r] = query.codes + (r < rows ? h + r : h) * size;
      sum_a[r] = sum_b[r] = _mm512_setzero_si512();
    }
    for (int64_t c = 0; c < size; c += 2) {
      const auto* keys = reinterpret_cast<const __m256i*>(packed + c * kGroup);
      const auto* next = reinterpret_cast<const __m256i*>(packed + offset + c * kGroup);
      const __m512i keys_a = _mm512_cvtepi8_epi16(_mm256_loadu_si256(keys));
      const __m512i keys_b = _mm512_cvtepi8_epi16(_mm256_loadu_si256(next));
      HWY_UNROLL(4)
      for (int r = 0; r < 4; ++r) {
        int32_t both;
        std::memcpy(&both, codes[r] + c, sizeof(both));
        const __m512i pair = _mm512_set1_epi32(both);
        sum_a[r] = _mm512_dpwssd_epi32(sum_a[r], keys_a, pair);
        sum_b[r] = _mm512_dpwssd_epi32(sum_b[r], keys_b, pair);
      }
    }
    HWY_UNROLL(4)
    for (int r = 0; r < 4; ++r) {
      if (r >= rows) break;
      const __m512 weight = _mm512_set1_ps(query.head_weight[h + r]);
      const __m512i zero = _mm512_setzero_si512();
      acc_a = _mm512_fmadd_ps(weight, _mm512_cvtepi32_ps(_mm512_max_epi32(sum_a[r], zero)), acc_a);
      acc_b = _mm512_fmadd_ps(weight, _mm512_cvtepi32_ps(_mm512_max_epi32(sum_b[r], zero)), acc_b);
    }
  }
  _mm512_storeu_ps(scores, _mm512_mul_ps(_mm512_loadu_ps(key_scale), acc_a));
  _mm512_storeu_ps(scores + kGroup, _mm512_mul_ps(_mm512_loadu_ps(key_scale + kGroup), acc_b));
}

// Scores of two groups, the second `offset` bytes after the first.
inline void TwoGroupScores(const int8_t* packed, int64_t offset, const float* key_scale,
                           const ScanQuery& query, int64_t heads, int64_t size, float* scores) {
  if (HasVnni()) return VnniScores(packed, offset, key_scale, query, heads, size, scores);
  VectorScores<true>(packed, offset, key_scale, query, heads, size, scores);
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
  const hn::RebindToSigned<FloatTag> di;
  const FloatVec limit = hn::Set(d, threshold);
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  // True is -1, lane by lane; lanes divide 16.
  auto even = hn::Zero(di);
  auto odd = hn::Zero(di);
  const auto above = [&](int64_t i) HWY_ATTR {
    return hn::BitCast(di, hn::VecFromMask(d, hn::Gt(hn::Load(d, scores + i), limit)));
  };
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    even = hn::Add(even, above(i));
    odd = hn::Add(odd, above(i + lanes));
  }
  for (; i < n; i += lanes) even = hn::Add(even, above(i));
  return -hn::GetLane(hn::SumOfLanes(di, hn::Add(even, odd)));
}

// A value that at least k of the scores are above (-1 if there are fewer than k), and only as many more as
// there are equal ones, by bisection of the bits. Scores past the last are -1.
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
    if (count == k) break;
  }
  return std::bit_cast<float>(low);
}

}  // namespace HWY_NAMESPACE
}  // namespace sluice
HWY_AFTER_NAMESPACE();

#endif  // SLUICE_BACKEND_CPU_GATE_SCORES_INL_H_
