// The products that attention and the gate are made of, for up to 8 heads that share key rows. With
// x [heads, d] of one token and rows y_j [d] of keys or values:
//   HeadDots:         out[j, h] = Σ_c y_j[c] x[h, c]             lanes are heads
//   WeightedSum:      acc[h, c] += Σ_j w[j, h] y_j[c]            lanes are channels
//   SpreadHeads:      y_j[c]   += Σ_h w[j, h] x[h, c]            lanes are channels
//   AddHeadBias:      logits[j, h] += w[h] s[j]                  lanes are heads
// Arrays over (key, head) are [keys, 8], or [keys, 16] for two tokens; heads that do not exist are zero
// rows. Logits are in units of log 2, so that their exponentials are powers of two. Every output element
// is one chain of multiply-adds in index order, so it does not depend on what else is in the call.
// Included like simd_math.h, after it.
#if defined(SLUICE_BACKEND_CPU_HEAD_KERNELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SLUICE_BACKEND_CPU_HEAD_KERNELS_INL_H_
#undef SLUICE_BACKEND_CPU_HEAD_KERNELS_INL_H_
#else
#define SLUICE_BACKEND_CPU_HEAD_KERNELS_INL_H_
#endif

#include "backend/cpu/head_plan.h"
#include "backend/cpu/simd_math.h"

HWY_BEFORE_NAMESPACE();
namespace sluice {
namespace HWY_NAMESPACE {

// Lanes of the (key, head) arrays: 8 heads of one token, or of two tokens side by side.
template <int64_t kLanes>
using LaneTag = hn::CappedTag<float, static_cast<size_t>(kLanes)>;
template <int64_t kLanes>
inline constexpr int64_t kLaneStep = static_cast<int64_t>(hn::MaxLanes(LaneTag<kLanes>()));

// Rows of a matrix, and rows anywhere.
template <class T>
struct StridedRows {
  T* base;
  int64_t stride;
  HWY_INLINE T* operator()(int64_t j) const { return base + j * stride; }
};
template <class T>
struct ListedRows {
  T* const* rows;
  HWY_INLINE T* operator()(int64_t j) const { return rows[j]; }
};

// by_head [8, padded channels] = x [rows, channels] · scale, the rows that do not exist zero.
inline void PadHeads(const float* HWY_RESTRICT x, int64_t rows, int64_t channels, float scale,
                     float* HWY_RESTRICT by_head) {
  const int64_t padded = PaddedChannels(channels);
  if (rows < kHeadLanes || padded != channels) std::fill_n(by_head, kHeadLanes * padded, 0.0f);
  for (int64_t h = 0; h < rows; ++h) {
    for (int64_t c = 0; c < channels; ++c) by_head[h * padded + c] = x[h * channels + c] * scale;
  }
}

// by_channel [channels, kWidth of kLanes] = the transpose of x [rows, channels] · scale.
template <int64_t kLanes, int64_t kWidth = kHeadLanes>
HWY_INLINE void TransposeHeads(const float* HWY_RESTRICT x, int64_t rows, int64_t channels, float scale,
                               float* HWY_RESTRICT by_channel) {
  int64_t c = 0;
#if HWY_TARGET <= HWY_AVX2
  if (kWidth == kHeadLanes && rows == kHeadLanes) {
    const LaneTag<kHeadLanes> d;
    const hn::RepartitionToWide<decltype(d)> dd;
    const auto factor = hn::Set(d, scale);
    const auto wide = [&](auto v) HWY_ATTR { return hn::BitCast(dd, v); };
    for (; c + 8 <= channels; c += 8) {
      hn::Vec<decltype(d)> v[8], w[8];
      for (int i = 0; i < 8; ++i) v[i] = hn::Mul(hn::LoadU(d, x + i * channels + c), factor);
      for (int i = 0; i < 4; ++i) {
        w[2 * i] = hn::InterleaveLower(d, v[2 * i], v[2 * i + 1]);
        w[2 * i + 1] = hn::InterleaveUpper(d, v[2 * i], v[2 * i + 1]);
      }
      for (int i = 0; i < 4;
           ++i) {  // v[i]: column i, and 4 + i in the upper half, of rows 0-3; v[4 + i]: of 4-7.
        const int low = i / 2;
        v[i] = hn::BitCast(d, i % 2 == 0 ? hn::InterleaveLower(dd, wide(w[low]), wide(w[low + 2]))
                                         : hn::InterleaveUpper(dd, wide(w[low]), wide(w[low + 2])));
        v[4 + i] = hn::BitCast(d, i % 2 == 0 ? hn::InterleaveLower(dd, wide(w[low + 4]), wide(w[low + 6]))
                                             : hn::InterleaveUpper(dd, wide(w[low + 4]), wide(w[low + 6])));
      }
      for (int i = 0; i < 4; ++i) {
        hn::Store(hn::ConcatLowerLower(d, v[4 + i], v[i]), d, by_channel + (c + i) * kLanes);
        hn::Store(hn::ConcatUpperUpper(d, v[4 + i], v[i]), d, by_channel + (c + 4 + i) * kLanes);
      }
    }
  }
#endif
  for (; c < channels; ++c) {
    for (int64_t h = 0; h < kWidth; ++h) {
      by_channel[c * kLanes + h] = h < rows ? x[h * channels + c] * scale : 0.0f;
    }
  }
}

// out [n rounded up to 8, kLanes]: the rows past n are written too, with the values of row n − 1.
template <int64_t kLanes, class Rows>
HWY_INLINE void HeadDots(const Rows& rows, int64_t n, const float* HWY_RESTRICT by_channel, int64_t channels,
                         float* HWY_RESTRICT out) {
  const LaneTag<kLanes> d;
  for (int64_t j = 0; j < n; j += 8) {
    const float* r[8];
    for (int64_t i = 0; i < 8; ++i) r[i] = rows(std::min(j + i, n - 1));
    for (int64_t part = 0; part < kLanes; part += kLaneStep<kLanes>) {
      auto a0 = hn::Zero(d), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
      for (int64_t c = 0; c < channels; ++c) {
        const auto x = hn::Load(d, by_channel + c * kLanes + part);
        a0 = hn::MulAdd(hn::Set(d, r[0][c]), x, a0);
        a1 = hn::MulAdd(hn::Set(d, r[1][c]), x, a1);
        a2 = hn::MulAdd(hn::Set(d, r[2][c]), x, a2);
        a3 = hn::MulAdd(hn::Set(d, r[3][c]), x, a3);
        a4 = hn::MulAdd(hn::Set(d, r[4][c]), x, a4);
        a5 = hn::MulAdd(hn::Set(d, r[5][c]), x, a5);
        a6 = hn::MulAdd(hn::Set(d, r[6][c]), x, a6);
        a7 = hn::MulAdd(hn::Set(d, r[7][c]), x, a7);
      }
      float* o = out + j * kLanes + part;
      hn::Store(a0, d, o);
      hn::Store(a1, d, o + 1 * kLanes);
      hn::Store(a2, d, o + 2 * kLanes);
      hn::Store(a3, d, o + 3 * kLanes);
      hn::Store(a4, d, o + 4 * kLanes);
      hn::Store(a5, d, o + 5 * kLanes);
      hn::Store(a6, d, o + 6 * kLanes);
      hn::Store(a7, d, o + 7 * kLanes);
    }
  }
}

template <bool kPartial>
HWY_INLINE FloatVec LoadChannels(FloatTag d, const float* p, size_t count) {
  if constexpr (kPartial) return LoadPartial(d, p, count);
  return hn::LoadU(d, p);
}

template <bool kPartial>
HWY_INLINE void StoreChannels(FloatVec v, FloatTag d, float* p, size_t count) {
  if constexpr (kPartial) {
    StorePartial(v, d, p, count);
  } else {
    hn::StoreU(v, d, p);
  }
}

// Channels [c, c + kVecs vectors) of WeightedSum; kPartial: only `count` of a single vector.
template <int64_t kLanes, int kRows, int kVecs, bool kPartial, class Rows>
HWY_INLINE void WeightedSumChunk(const Rows& rows, int64_t n, const float* HWY_RESTRICT weights, int64_t c,
                                 size_t count, float* HWY_RESTRICT acc, int64_t padded) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  FloatVec sum[kRows][kVecs];
  HWY_UNROLL(8)
  for (int h = 0; h < kRows; ++h) {
    HWY_UNROLL(2)
    for (int i = 0; i < kVecs; ++i) sum[h][i] = hn::Load(d, acc + h * padded + c + i * lanes);
  }
  for (int64_t j = 0; j < n; ++j) {
    const float* row = rows(j) + c;
    const float* w = weights + j * kLanes;
    FloatVec y[kVecs];
    HWY_UNROLL(2)
    for (int i = 0; i < kVecs; ++i) y[i] = LoadChannels<kPartial>(d, row + i * lanes, count);
    HWY_UNROLL(8)
    for (int h = 0; h < kRows; ++h) {
      const FloatVec wh = hn::Set(d, w[h]);
      HWY_UNROLL(2)
      for (int i = 0; i < kVecs; ++i) sum[h][i] = hn::MulAdd(wh, y[i], sum[h][i]);
    }
  }
  HWY_UNROLL(8)
  for (int h = 0; h < kRows; ++h) {
    HWY_UNROLL(2)
    for (int i = 0; i < kVecs; ++i) hn::Store(sum[h][i], d, acc + h * padded + c + i * lanes);
  }
}

template <int64_t kLanes, int kRows, class Rows>
HWY_INLINE void WeightedSumRows(const Rows& rows, int64_t n, const float* HWY_RESTRICT weights,
                                int64_t channels, float* HWY_RESTRICT acc) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  const int64_t padded = PaddedChannels(channels);
  int64_t c = 0;
  for (; c + 2 * lanes <= channels; c += 2 * lanes) {
    WeightedSumChunk<kLanes, kRows, 2, false>(rows, n, weights, c, 0, acc, padded);
  }
  for (; c + lanes <= channels; c += lanes) {
    WeightedSumChunk<kLanes, kRows, 1, false>(rows, n, weights, c, 0, acc, padded);
  }
  if (c < channels) {
    WeightedSumChunk<kLanes, kRows, 1, true>(rows, n, weights, c, static_cast<size_t>(channels - c), acc,
                                             padded);
  }
}

// acc [8, padded channels]; `heads` of them are wanted. weights [n, 8 of kLanes].
template <int64_t kLanes, class Rows>
HWY_INLINE void WeightedSum(const Rows& rows, int64_t n, const float* HWY_RESTRICT weights, int64_t heads,
                            int64_t channels, float* HWY_RESTRICT acc) {
  if (n <= 0) return;
#if HWY_TARGET <= HWY_AVX3
  if (heads > 4) return WeightedSumRows<kLanes, 8>(rows, n, weights, channels, acc);
#endif
  WeightedSumRows<kLanes, 4>(rows, n, weights, channels, acc);
  if (heads > 4)
    WeightedSumRows<kLanes, 4>(rows, n, weights + 4, channels, acc + 4 * PaddedChannels(channels));
}

template <int64_t kLanes, int kRows, int kVecs, bool kPartial, class Rows>
HWY_INLINE void SpreadHeadsChunk(const Rows& rows, int64_t n, const float* HWY_RESTRICT weights,
                                 const float* HWY_RESTRICT by_head, int64_t c, size_t count, int64_t padded) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  FloatVec x[kRows][kVecs];
  HWY_UNROLL(8)
  for (int h = 0; h < kRows; ++h) {
    HWY_UNROLL(2)
    for (int i = 0; i < kVecs; ++i) x[h][i] = hn::Load(d, by_head + h * padded + c + i * lanes);
  }
  // Two rows at a time hide the latency of each other's chains.
  int64_t j = 0;
  for (; j + 2 <= n; j += 2) {
    float* row_a = rows(j) + c;
    float* row_b = rows(j + 1) + c;
    const float* w = weights + j * kLanes;
    FloatVec a[kVecs], b[kVecs];
    HWY_UNROLL(2)
    for (int i = 0; i < kVecs; ++i) {
      a[i] = LoadChannels<kPartial>(d, row_a + i * lanes, count);
      b[i] = LoadChannels<kPartial>(d, row_b + i * lanes, count);
    }
    HWY_UNROLL(8)
    for (int h = 0; h < kRows; ++h) {
      const FloatVec wa = hn::Set(d, w[h]);
      const FloatVec wb = hn::Set(d, w[kLanes + h]);
      HWY_UNROLL(2)
      for (int i = 0; i < kVecs; ++i) {
        a[i] = hn::MulAdd(wa, x[h][i], a[i]);
        b[i] = hn::MulAdd(wb, x[h][i], b[i]);
      }
    }
    HWY_UNROLL(2)
    for (int i = 0; i < kVecs; ++i) {
      StoreChannels<kPartial>(a[i], d, row_a + i * lanes, count);
      StoreChannels<kPartial>(b[i], d, row_b + i * lanes, count);
    }
  }
  if (j < n) {
    float* row = rows(j) + c;
    const float* w = weights + j * kLanes;
    HWY_UNROLL(2)
    for (int i = 0; i < kVecs; ++i) {
      FloatVec y = LoadChannels<kPartial>(d, row + i * lanes, count);
      HWY_UNROLL(8)
      for (int h = 0; h < kRows; ++h) y = hn::MulAdd(hn::Set(d, w[h]), x[h][i], y);
      StoreChannels<kPartial>(y, d, row + i * lanes, count);
    }
  }
}

template <int64_t kLanes, int kRows, class Rows>
HWY_INLINE void SpreadHeadsRows(const Rows& rows, int64_t n, const float* HWY_RESTRICT weights,
                                const float* HWY_RESTRICT by_head, int64_t channels) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  const int64_t padded = PaddedChannels(channels);
  int64_t c = 0;
#if HWY_TARGET <= HWY_AVX3
  for (; c + 2 * lanes <= channels; c += 2 * lanes) {
    SpreadHeadsChunk<kLanes, kRows, 2, false>(rows, n, weights, by_head, c, 0, padded);
  }
#endif
  for (; c + lanes <= channels; c += lanes) {
    SpreadHeadsChunk<kLanes, kRows, 1, false>(rows, n, weights, by_head, c, 0, padded);
  }
  if (c < channels) {
    SpreadHeadsChunk<kLanes, kRows, 1, true>(rows, n, weights, by_head, c, static_cast<size_t>(channels - c),
                                             padded);
  }
}

// by_head [8, padded channels]; weights [n, 8 of kLanes]. REQUIRES: no row twice.
template <int64_t kLanes, class Rows>
HWY_INLINE void SpreadHeads(const Rows& rows, int64_t n, const float* HWY_RESTRICT weights,
                            const float* HWY_RESTRICT by_head, int64_t heads, int64_t channels) {
  if (n <= 0) return;
  if (heads > 4) return SpreadHeadsRows<kLanes, 8>(rows, n, weights, by_head, channels);
  SpreadHeadsRows<kLanes, 4>(rows, n, weights, by_head, channels);
}

// 2^x for x <= 127; 0 below -126 (where the result would be denormal) and at -infinity. With n the nearest
// integer, 2^(x − n) is a polynomial of degree 6, 9.2e-9 off before rounding, and n is added to its exponent.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp2NonPositive(D d, V x) {
  const hn::RebindToSigned<D> di;
  const V magic = hn::Set(d, 12582912.0f);  // 1.5 · 2^23: the nearest integer ends up in the low bits.
  const V shifted = hn::Add(x, magic);
  const V r = hn::Sub(x, hn::Sub(shifted, magic));
  V p = hn::MulAdd(hn::Set(d, 0.00015453163359779865f), r, hn::Set(d, 0.0013390863314270973f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.009618083015084267f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.055503569543361664f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.24022650718688965f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.6931471824645996f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  const V power = hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -126.0f)), power);
}

// highest[h] = max(highest[h], logits[0 .. n, h]).
template <int64_t kLanes>
HWY_INLINE void HeadMax(const float* HWY_RESTRICT logits, int64_t n, float* HWY_RESTRICT highest) {
  const LaneTag<kLanes> d;
  for (int64_t part = 0; part < kLanes; part += kLaneStep<kLanes>) {
    auto m = hn::Load(d, highest + part);
    for (int64_t j = 0; j < n; ++j) m = hn::Max(m, hn::Load(d, logits + j * kLanes + part));
    hn::Store(m, d, highest + part);
  }
}

// logits[j, h] = 2^(logits[j, h] − reference[h]), and sum[h] += their sum over j.
template <int64_t kLanes>
HWY_INLINE void HeadExp2(float* HWY_RESTRICT logits, int64_t n, const float* HWY_RESTRICT reference,
                         float* HWY_RESTRICT sum) {
  const LaneTag<kLanes> d;
  for (int64_t part = 0; part < kLanes; part += kLaneStep<kLanes>) {
    const auto m = hn::Load(d, reference + part);
    auto total = hn::Zero(d);
    for (int64_t j = 0; j < n; ++j) {
      const auto p = Exp2NonPositive(d, hn::Sub(hn::Load(d, logits + j * kLanes + part), m));
      total = hn::Add(total, p);
      hn::Store(p, d, logits + j * kLanes + part);
    }
    hn::Store(hn::Add(hn::Load(d, sum + part), total), d, sum + part);
  }
}

#if HWY_TARGET <= HWY_AVX2

// For 4 rows of 8 lanes: lane j of the result is the sum of lanes 0-3 of row j, lane 4 + j that of 4-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SumQuarters(D d, V r0, V r1, V r2, V r3) {
  const hn::RepartitionToWide<D> dd;
  const V s01 = hn::Add(hn::InterleaveLower(d, r0, r1), hn::InterleaveUpper(d, r0, r1));
  const V s23 = hn::Add(hn::InterleaveLower(d, r2, r3), hn::InterleaveUpper(d, r2, r3));
  const auto low = hn::InterleaveLower(dd, hn::BitCast(dd, s01), hn::BitCast(dd, s23));
  const auto high = hn::InterleaveUpper(dd, hn::BitCast(dd, s01), hn::BitCast(dd, s23));
  return hn::Add(hn::BitCast(d, low), hn::BitCast(d, high));
}

#endif

// Σ over the 8 lanes of one (key, head) row, in a fixed order.
HWY_INLINE float SumHeads(const float* HWY_RESTRICT row) {
  return ((row[0] + row[1]) + (row[2] + row[3])) + ((row[4] + row[5]) + (row[6] + row[7]));
}

// acc[h, c] *= factor[h] for the first `heads` heads.
HWY_INLINE void ScaleHeads(const float* HWY_RESTRICT factor, int64_t heads, int64_t padded,
                           float* HWY_RESTRICT acc) {
  const FloatTag d;
  for (int64_t h = 0; h < heads; ++h) {
    const FloatVec f = hn::Set(d, factor[h]);
    for (int64_t c = 0; c < padded; c += static_cast<int64_t>(hn::Lanes(d))) {
      hn::Store(hn::Mul(hn::Load(d, acc + h * padded + c), f), d, acc + h * padded + c);
    }
  }
}

// out[h, c] = acc[h, c] · factor[h] for the first `heads` heads; out is [heads, channels].
HWY_INLINE void StoreHeads(const float* HWY_RESTRICT acc, const float* HWY_RESTRICT factor, int64_t heads,
                           int64_t channels, float* HWY_RESTRICT out) {
  const int64_t padded = PaddedChannels(channels);
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t c = 0; c < channels; ++c) out[h * channels + c] = acc[h * padded + c] * factor[h];
  }
}

// The kWidth values of a group: values[h] where the head exists, else `rest`.
template <int64_t kWidth = kHeadLanes>
HWY_INLINE void LoadHeadValues(const float* values, int64_t heads, float rest, float* HWY_RESTRICT out) {
  for (int64_t h = 0; h < kWidth; ++h) out[h] = h < heads ? values[h] : rest;
}

// logits[j, h] += weight[h] · score[j], kWidth heads of rows kLanes apart.
template <int64_t kLanes, int64_t kWidth = kHeadLanes>
HWY_INLINE void AddHeadBias(const float* HWY_RESTRICT score, int64_t n, const float* HWY_RESTRICT weight,
                            float* HWY_RESTRICT logits) {
  const LaneTag<kWidth> d;
  for (int64_t part = 0; part < kWidth; part += kLaneStep<kWidth>) {
    const auto w = hn::Load(d, weight + part);
    for (int64_t j = 0; j < n; ++j) {
      float* row = logits + j * kLanes + part;
      hn::Store(hn::MulAdd(w, hn::Set(d, score[j]), hn::Load(d, row)), d, row);
    }
  }
}

// dscore[j] += Σ_h weight[h] · dlogits[j, h];  dweight[h] += Σ_j score[j] · dlogits[j, h].
template <int64_t kLanes>
HWY_INLINE void HeadBiasGrad(const float* HWY_RESTRICT score, int64_t n, const float* HWY_RESTRICT weight,
                             const float* HWY_RESTRICT dlogits, float* HWY_RESTRICT dscore,
                             float* HWY_RESTRICT dweight) {
  const LaneTag<kHeadLanes> d;
  HWY_ALIGN float product[kHeadLanes];
  for (int64_t j = 0; j < n; ++j) {
    const auto s = hn::Set(d, score[j]);
    for (int64_t part = 0; part < kHeadLanes; part += kLaneStep<kHeadLanes>) {
      const auto dlogit = hn::Load(d, dlogits + j * kLanes + part);
      hn::Store(hn::Mul(hn::Load(d, weight + part), dlogit), d, product + part);
      hn::Store(hn::MulAdd(s, dlogit, hn::Load(d, dweight + part)), d, dweight + part);
    }
    dscore[j] += SumHeads(product);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace sluice
HWY_AFTER_NAMESPACE();

#endif  // toggle
