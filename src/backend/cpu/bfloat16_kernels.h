// What attention over keys and values in bfloat16 is made of, on processors whose instructions multiply pairs
// of bfloat16 numbers and add both products to a float32 (AVX512_BF16): twice the multiply-adds of float32,
// of keys and values as they lie in the cache. Queries and softmax weights are rounded to bfloat16 for it.
//
// A pair is 32 bits: of two neighbouring channels of a key, or of one channel of two neighbouring values.
// With keys transposed to [pairs, keys] a lane is a key, with values interleaved to [pairs, channels] a
// channel:
//   TransposeKeys, DotRows:            s[r, j] = scale Σ_c q[r, c] k_j[c]
//   InterleaveValues, WeightedPairs:   acc[r, c] += Σ_j p[r, j] v_j[c]
// Every output is one chain of instructions in index order, whatever else is in the call.
//
// Code that calls these stands between SLUICE_BFLOAT16_BEGIN() and SLUICE_BFLOAT16_END(), too.
#pragma once

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#if HWY_ARCH_X86_64
#include <immintrin.h>

// Functions between these are compiled for such processors.
#define SLUICE_BFLOAT16_BEGIN()                                                                        \
  HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,bmi,bmi2,fma,f16c") \
  static_assert(true, "a semicolon follows")
#define SLUICE_BFLOAT16_END() \
  HWY_POP_ATTRIBUTES          \
  static_assert(true, "a semicolon follows")

SLUICE_BFLOAT16_BEGIN();
namespace sluice::bfloat16 {

inline constexpr int64_t kLanes = 16;     // Of a vector of float32 or pairs.
inline constexpr int64_t kChannels = 64;  // That WeightedPairs takes at a time.
inline constexpr int kMaxRows = 6;        // Rows of queries at a time: 24 of 32 registers accumulate.

inline __m512bh AsPairs(__m512i v) {
  return (__m512bh)v;
}

// A key's or value's row: 32 channels from 32 · i on, as they lie or rounded.
inline __m512i LoadChannels(const uint16_t* row, int64_t i) {
  return _mm512_loadu_si512(row + 32 * i);
}
inline __m512i LoadChannels(const float* row, int64_t i) {
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(row + 32 * i + 16), _mm512_loadu_ps(row + 32 * i));
}

// 16 rows of 16 numbers become 16 columns.
inline void Transpose16(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // r[4i + k]: in quarter q, column 4q + k of rows 4i to 4i + 3.
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const __m512i even_low = _mm512_shuffle_i32x4(r[k], r[4 + k], 0x88);
    const __m512i even_high = _mm512_shuffle_i32x4(r[8 + k], r[12 + k], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(r[k], r[4 + k], 0xdd);
    const __m512i odd_high = _mm512_shuffle_i32x4(r[8 + k], r[12 + k], 0xdd);
    t[k] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    t[4 + k] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    t[8 + k] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    t[12 + k] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  }
  std::copy_n(t, 16, r);
}

// keys [channels / 2, stride]: columns [0, n rounded up to 16) become rows 0, …; those from n on repeat the
// last. `row(j)` is where row j begins.
template <class Row>
inline void TransposeKeys(const Row& row, int64_t n, int64_t channels, int64_t stride, uint32_t* keys) {
  for (int64_t j = 0; j < n; j += kLanes) {
    std::decay_t<decltype(row(0))> rows[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) rows[i] = row(std::min(j + i, n - 1));
    for (int64_t part = 0; part < channels / 32; ++part) {
      __m512i r[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) r[i] = LoadChannels(rows[i], part);
      Transpose16(r);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(keys + (part * 16 + i) * stride + j, r[i]);
    }
  }
}

// out [kRows, out_stride]: columns [0, 16 kVecs) = scale times the products of rows of q [kRows, pairs] and
// keys.
template <int kRows, int kVecs>
inline void DotTile(const uint32_t* keys, int64_t stride, const uint32_t* q, int64_t pairs, __m512 scale,
                    float* out, int64_t out_stride) {
  __m512 acc[kRows][kVecs];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) acc[r][v] = _mm512_setzero_ps();
  }
  for (int64_t c = 0; c < pairs; ++c) {
    __m512bh k[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) k[v] = AsPairs(_mm512_loadu_si512(keys + c * stride + v * kLanes));
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const __m512bh x = AsPairs(_mm512_set1_epi32(static_cast<int>(q[r * pairs + c])));
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], x, k[v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      _mm512_storeu_ps(out + r * out_stride + v * kLanes, _mm512_mul_ps(acc[r][v], scale));
    }
  }
}

// The same for columns [0, n rounded up to 16).
template <int kRows>
inline void DotRows(const uint32_t* keys, int64_t stride, int64_t n, const uint32_t* q, int64_t pairs,
                    float scale, float* out, int64_t out_stride) {
  const __m512 factor = _mm512_set1_ps(scale);
  int64_t j = 0;
  for (; j + 3 * kLanes < n; j += 4 * kLanes) {
    DotTile<kRows, 4>(keys + j, stride, q, pairs, factor, out + j, out_stride);
  }
  if (j + kLanes < n) {
    DotTile<kRows, 2>(keys + j, stride, q, pairs, factor, out + j, out_stride);
    j += 2 * kLanes;
  }
  if (j < n) DotTile<kRows, 1>(keys + j, stride, q, pairs, factor, out + j, out_stride);
}

// Of a pair of values: both, or only the first or second where the other is not to be seen.
inline constexpr uint32_t kBothValues = 0xffffffffu;
inline constexpr uint32_t kFirstValue = 0x0000ffffu;
inline constexpr uint32_t kSecondValue = 0xffff0000u;

// pairs [ceil(n / 2), channels]: values 2i and 2i + 1, which `row(j)` says the begin of, zero where there is
// none. Of 32 channels, numbers 8q + 0 to 3 lie in the first 16 pairs, 8q + 4 to 7 in the second: see
// StoreRow.
template <class Row>
inline void InterleaveValues(const Row& row, int64_t n, int64_t channels, uint32_t* pairs) {
  for (int64_t j = 0; j < n; j += 2) {
    const uint16_t* first = row(j);
    const uint16_t* second = j + 1 < n ? row(j + 1) : nullptr;
    uint32_t* out = pairs + j / 2 * channels;
    for (int64_t part = 0; part < channels / 32; ++part) {
      const __m512i a = LoadChannels(first, part);
      const __m512i b = second != nullptr ? LoadChannels(second, part) : _mm512_setzero_si512();
      _mm512_storeu_si512(out + part * 32, _mm512_unpacklo_epi16(a, b));
      _mm512_storeu_si512(out + part * 32 + 16, _mm512_unpackhi_epi16(a, b));
    }
  }
}

// acc [kRows, channels], channels [0, kChannels) of it, in the order of the pairs; p [kRows, p_stride] pairs
// of weights; pairs [begin, end), the values of the first and last of them as the masks say.
template <int kRows>
inline void WeightedTile(const uint32_t* values, int64_t channels, const uint32_t* p, int64_t p_stride,
                         int64_t begin, int64_t end, uint32_t first_mask, uint32_t last_mask, float* acc) {
  constexpr int kVecs = kChannels / kLanes;
  __m512 sum[kRows][kVecs];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) sum[r][v] = _mm512_loadu_ps(acc + r * channels + v * kLanes);
  }
  const auto add = [&](int64_t i, uint32_t mask) {
    const __m512i seen = _mm512_set1_epi32(static_cast<int>(mask));
    __m512bh x[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      const __m512i pair = _mm512_loadu_si512(values + i * channels + v * kLanes);
      x[v] = AsPairs(mask == kBothValues ? pair : _mm512_and_si512(pair, seen));
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const __m512bh w = AsPairs(_mm512_set1_epi32(static_cast<int>(p[r * p_stride + i])));
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], w, x[v]);
    }
  };
  if (first_mask != kBothValues && begin < end) {
    add(begin, begin + 1 == end ? first_mask & last_mask : first_mask);
    ++begin;
  }
  const bool last_apart = last_mask != kBothValues && begin < end;
  for (int64_t i = begin; i < end - last_apart; ++i) add(i, kBothValues);
  if (last_apart) add(end - 1, last_mask);
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) _mm512_storeu_ps(acc + r * channels + v * kLanes, sum[r][v]);
  }
}

// Adds values [begin, end) of the interleaved ones, all channels.
template <int kRows>
inline void WeightedPairs(const uint32_t* values, int64_t channels, const uint32_t* p, int64_t p_stride,
                          int64_t begin, int64_t end, float* acc) {
  if (begin >= end) return;
  const uint32_t first_mask = begin % 2 == 0 ? kBothValues : kSecondValue;
  const uint32_t last_mask = end % 2 == 0 ? kBothValues : kFirstValue;
  for (int64_t c = 0; c < channels; c += kChannels) {
    WeightedTile<kRows>(values + c, channels, p, p_stride, begin / 2, (end + 1) / 2, first_mask, last_mask,
                        acc + c);
  }
}

// 2^x for x <= 0, 0 below about -149; 2.9e-6 off, which its rounding to bfloat16 hides. NaN stays NaN.
inline __m512 Exp2(__m512 x) {
  // -infinity has no fraction; in this order NaN goes through.
  x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(x, n);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.00958285f), r, _mm512_set1_ps(0.05590643f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.24024099f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.69312419f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

// p [n / 2 pairs] = 2^(logits − highest), rounded; adds them to the 16 lanes of `sum`. n is a multiple of 32.
inline void ExpRow(const float* logits, int64_t n, float highest, uint32_t* p, float* sum) {
  const __m512 reference = _mm512_set1_ps(highest);
  const __m512bh ones = AsPairs(_mm512_set1_epi32(0x3f803f80));
  __m512 total = _mm512_loadu_ps(sum);
  for (int64_t j = 0; j < n; j += 2 * kLanes) {
    const __m512 low = Exp2(_mm512_sub_ps(_mm512_loadu_ps(logits + j), reference));
    const __m512 high = Exp2(_mm512_sub_ps(_mm512_loadu_ps(logits + j + kLanes), reference));
    const __m512bh pairs = _mm512_cvtne2ps_pbh(high, low);
    total = _mm512_dpbf16_ps(total, pairs, ones);
    _mm512_storeu_si512(p + j / 2, (__m512i)pairs);
  }
  _mm512_storeu_ps(sum, total);
}

// The largest of `highest` and n logits, a multiple of 16.
inline float MaxOfRow(const float* logits, int64_t n, float highest) {
  __m512 largest = _mm512_set1_ps(highest);
  for (int64_t j = 0; j < n; j += kLanes) largest = _mm512_max_ps(largest, _mm512_loadu_ps(logits + j));
  return _mm512_reduce_max_ps(largest);
}

// pairs [channels / 2] = x [channels], rounded. REQUIRES: channels is a multiple of 32.
inline void RoundRow(const float* x, int64_t channels, uint32_t* pairs) {
  for (int64_t i = 0; i < channels / 32; ++i) _mm512_storeu_si512(pairs + 16 * i, LoadChannels(x, i));
}

// out [channels] = acc · factor, back in the order of the channels.
inline void StoreRow(const float* acc, int64_t channels, float factor, float* out) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  const __m512 f = _mm512_set1_ps(factor);
  for (int64_t c = 0; c < channels; c += 32) {
    const __m512 a = _mm512_mul_ps(_mm512_loadu_ps(acc + c), f);
    const __m512 b = _mm512_mul_ps(_mm512_loadu_ps(acc + c + 16), f);
    _mm512_storeu_ps(out + c, _mm512_permutex2var_ps(a, first, b));
    _mm512_storeu_ps(out + c + 16, _mm512_permutex2var_ps(a, second, b));
  }
}

// acc [channels] · factor.
inline void ScaleRow(float factor, int64_t channels, float* acc) {
  const __m512 f = _mm512_set1_ps(factor);
  for (int64_t c = 0; c < channels; c += kLanes) {
    _mm512_storeu_ps(acc + c, _mm512_mul_ps(_mm512_loadu_ps(acc + c), f));
  }
}

// f(row, count) for all rows, at most kMaxRows of them at a time; count is a constant.
template <class F>
inline void ForRows(int64_t rows, const F& f) {
  const int64_t chunks = (rows + kMaxRows - 1) / kMaxRows;
  const int64_t step = chunks == 0 ? 0 : (rows + chunks - 1) / chunks;
  for (int64_t r = 0; r < rows; r += step) {
    switch (std::min(step, rows - r)) {
      case 1:
        f(r, std::integral_constant<int, 1>());
        break;
      case 2:
        f(r, std::integral_constant<int, 2>());
        break;
      case 3:
        f(r, std::integral_constant<int, 3>());
        break;
      case 4:
        f(r, std::integral_constant<int, 4>());
        break;
      case 5:
        f(r, std::integral_constant<int, 5>());
        break;
      default:
        f(r, std::integral_constant<int, 6>());
        break;
    }
  }
}

}  // namespace sluice::bfloat16
SLUICE_BFLOAT16_END();

#endif  // HWY_ARCH_X86_64
