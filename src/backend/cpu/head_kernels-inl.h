// The products that attention and the gate are made of, for up to 8 heads that share key rows. With
// x [heads, d] of one token and rows y_j [d] of keys or values:
//   HeadDots:         out[j, h] = Σ_c y_j[c] x[h, c]             lanes are heads
//   WeightedSum:      acc[h, c] += Σ_j w[j, h] y_j[c]            lanes are channels
//   SpreadHeads:      y_j[c]   += Σ_h w[j, h] x[h, c]            lanes are channels
// Arrays over (key, head) are [keys, 8]; heads that do not exist are zero rows. Every output element
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

// A vector of heads; targets of fewer than 8 lanes need several for 8.
using HeadTag = hn::CappedTag<float, kHeadLanes>;
using HeadVec = hn::Vec<HeadTag>;
inline constexpr int64_t kHeadVecLanes = static_cast<int64_t>(hn::MaxLanes(HeadTag()));

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

// by_head [8, padded channels] and by_channel [channels, 8] = scale · x [rows, channels].
inline void PrepareHeads(const float* HWY_RESTRICT x, int64_t rows, int64_t channels, float scale,
                         float* HWY_RESTRICT by_head, float* HWY_RESTRICT by_channel) {
  const int64_t padded = PaddedChannels(channels);
  std::fill_n(by_head, kHeadLanes * padded, 0.0f);
  if (rows < kHeadLanes) std::fill_n(by_channel, kHeadLanes * channels, 0.0f);
  for (int64_t h = 0; h < rows; ++h) {
    for (int64_t c = 0; c < channels; ++c) {
      const float value = x[h * channels + c] * scale;
      by_head[h * padded + c] = value;
      by_channel[c * kHeadLanes + h] = value;
    }
  }
}

// out [n rounded up to 8, 8]: the rows past n are written too, with the values of row n − 1.
template <class Rows>
HWY_INLINE void HeadDots(const Rows& rows, int64_t n, const float* HWY_RESTRICT by_channel, int64_t channels,
                         float* HWY_RESTRICT out) {
  const HeadTag d;
  for (int64_t j = 0; j < n; j += 8) {
    const float* r[8];
    for (int64_t i = 0; i < 8; ++i) r[i] = rows(std::min(j + i, n - 1));
    for (int64_t part = 0; part < kHeadLanes; part += kHeadVecLanes) {
      HeadVec a0 = hn::Zero(d), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
      for (int64_t c = 0; c < channels; ++c) {
        const HeadVec x = hn::Load(d, by_channel + c * kHeadLanes + part);
        a0 = hn::MulAdd(hn::Set(d, r[0][c]), x, a0);
        a1 = hn::MulAdd(hn::Set(d, r[1][c]), x, a1);
        a2 = hn::MulAdd(hn::Set(d, r[2][c]), x, a2);
        a3 = hn::MulAdd(hn::Set(d, r[3][c]), x, a3);
        a4 = hn::MulAdd(hn::Set(d, r[4][c]), x, a4);
        a5 = hn::MulAdd(hn::Set(d, r[5][c]), x, a5);
        a6 = hn::MulAdd(hn::Set(d, r[6][c]), x, a6);
        a7 = hn::MulAdd(hn::Set(d, r[7][c]), x, a7);
      }
      float* o = out + j * kHeadLanes + part;
      hn::Store(a0, d, o);
      hn::Store(a1, d, o + 1 * kHeadLanes);
      hn::Store(a2, d, o + 2 * kHeadLanes);
      hn::Store(a3, d, o + 3 * kHeadLanes);
      hn::Store(a4, d, o + 4 * kHeadLanes);
      hn::Store(a5, d, o + 5 * kHeadLanes);
      hn::Store(a6, d, o + 6 * kHeadLanes);
      hn::Store(a7, d, o + 7 * kHeadLanes);
    }
  }
}

template <bool kPartial>
HWY_INLINE FloatVec LoadChannels(FloatTag d, const float* p, size_t count) {
  if constexpr (kPartial) return LoadPartial(d, p, count);
  return hn::LoadU(d, p);
}

// Channels [c, c + kVecs vectors) of WeightedSum; kPartial: only `count` of a single vector.
template <int kRows, int kVecs, bool kPartial, class Rows>
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
    const float* w = weights + j * kHeadLanes;
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

template <int kRows, class Rows>
HWY_INLINE void WeightedSumRows(const Rows& rows, int64_t n, const float* HWY_RESTRICT weights,
                                int64_t channels, float* HWY_RESTRICT acc) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  const int64_t padded = PaddedChannels(channels);
  int64_t c = 0;
  for (; c + 2 * lanes <= channels; c += 2 * lanes) {
    WeightedSumChunk<kRows, 2, false>(rows, n, weights, c, 0, acc, padded);
  }
  for (; c + lanes <= channels; c += lanes) {
    WeightedSumChunk<kRows, 1, false>(rows, n, weights, c, 0, acc, padded);
  }
  if (c < channels) {
    WeightedSumChunk<kRows, 1, true>(rows, n, weights, c, static_cast<size_t>(channels - c), acc, padded);
  }
}

// acc [8, padded channels]; `heads` of them are wanted.
template <class Rows>
HWY_INLINE void WeightedSum(const Rows& rows, int64_t n, const float* HWY_RESTRICT weights, int64_t heads,
                            int64_t channels, float* HWY_RESTRICT acc) {
  if (n <= 0) return;
#if HWY_TARGET <= HWY_AVX3
  if (heads > 4) return WeightedSumRows<8>(rows, n, weights, channels, acc);
#endif
  WeightedSumRows<4>(rows, n, weights, channels, acc);
  if (heads > 4) WeightedSumRows<4>(rows, n, weights + 4, channels, acc + 4 * PaddedChannels(channels));
}

template <int kRows, int kVecs, bool kPartial, class Rows>
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
  for (int64_t j = 0; j < n; ++j) {
    float* row = rows(j) + c;
    const float* w = weights + j * kHeadLanes;
    FloatVec y[kVecs];
    HWY_UNROLL(2)
    for (int i = 0; i < kVecs; ++i) y[i] = LoadChannels<kPartial>(d, row + i * lanes, count);
    HWY_UNROLL(8)
    for (int h = 0; h < kRows; ++h) {
      const FloatVec wh = hn::Set(d, w[h]);
      HWY_UNROLL(2)
      for (int i = 0; i < kVecs; ++i) y[i] = hn::MulAdd(wh, x[h][i], y[i]);
    }
    HWY_UNROLL(2)
    for (int i = 0; i < kVecs; ++i) {
      if constexpr (kPartial) {
        StorePartial(y[i], d, row, count);
      } else {
        hn::StoreU(y[i], d, row + i * lanes);
      }
    }
  }
}

template <int kRows, class Rows>
HWY_INLINE void SpreadHeadsRows(const Rows& rows, int64_t n, const float* HWY_RESTRICT weights,
                                const float* HWY_RESTRICT by_head, int64_t channels) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  const int64_t padded = PaddedChannels(channels);
  int64_t c = 0;
#if HWY_TARGET <= HWY_AVX3
  for (; c + 2 * lanes <= channels; c += 2 * lanes) {
    SpreadHeadsChunk<kRows, 2, false>(rows, n, weights, by_head, c, 0, padded);
  }
#endif
  for (; c + lanes <= channels; c += lanes) {
    SpreadHeadsChunk<kRows, 1, false>(rows, n, weights, by_head, c, 0, padded);
  }
  if (c < channels) {
    SpreadHeadsChunk<kRows, 1, true>(rows, n, weights, by_head, c, static_cast<size_t>(channels - c), padded);
  }
}

// by_head [8, padded channels].
template <class Rows>
HWY_INLINE void SpreadHeads(const Rows& rows, int64_t n, const float* HWY_RESTRICT weights,
                            const float* HWY_RESTRICT by_head, int64_t heads, int64_t channels) {
  if (n <= 0) return;
  if (heads > 4) return SpreadHeadsRows<8>(rows, n, weights, by_head, channels);
  SpreadHeadsRows<4>(rows, n, weights, by_head, channels);
}

// highest[h] = max(highest[h], logits[0 .. n, h]).
HWY_INLINE void HeadMax(const float* HWY_RESTRICT logits, int64_t n, float* HWY_RESTRICT highest) {
  const HeadTag d;
  for (int64_t part = 0; part < kHeadLanes; part += kHeadVecLanes) {
    HeadVec m = hn::Load(d, highest + part);
    for (int64_t j = 0; j < n; ++j) m = hn::Max(m, hn::Load(d, logits + j * kHeadLanes + part));
    hn::Store(m, d, highest + part);
  }
}

// logits[j, h] = exp(logits[j, h] − reference[h]), and sum[h] += their sum over j.
HWY_INLINE void HeadExp(float* HWY_RESTRICT logits, int64_t n, const float* HWY_RESTRICT reference,
                        float* HWY_RESTRICT sum) {
  const HeadTag d;
  for (int64_t part = 0; part < kHeadLanes; part += kHeadVecLanes) {
    const HeadVec m = hn::Load(d, reference + part);
    HeadVec total = hn::Zero(d);
    for (int64_t j = 0; j < n; ++j) {
      const HeadVec p = ExpNonPositive(d, hn::Sub(hn::Load(d, logits + j * kHeadLanes + part), m));
      total = hn::Add(total, p);
      hn::Store(p, d, logits + j * kHeadLanes + part);
    }
    hn::Store(hn::Add(hn::Load(d, sum + part), total), d, sum + part);
  }
}

// Σ over the 8 lanes of one (key, head) row, in a fixed order.
HWY_INLINE float SumHeads(const float* HWY_RESTRICT row) {
  return ((row[0] + row[1]) + (row[2] + row[3])) + ((row[4] + row[5]) + (row[6] + row[7]));
}

// out[h, c] = acc[h, c] · factor[h] for the first `heads` heads; out is [heads, channels].
HWY_INLINE void StoreHeads(const float* HWY_RESTRICT acc, const float* HWY_RESTRICT factor, int64_t heads,
                           int64_t channels, float* HWY_RESTRICT out) {
  const int64_t padded = PaddedChannels(channels);
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t c = 0; c < channels; ++c) out[h * channels + c] = acc[h * padded + c] * factor[h];
  }
}

// The 8 values of a group: values[h] where the head exists, else `rest`.
HWY_INLINE void LoadHeadValues(const float* values, int64_t heads, float rest, float* HWY_RESTRICT out) {
  for (int64_t h = 0; h < kHeadLanes; ++h) out[h] = h < heads ? values[h] : rest;
}

}  // namespace HWY_NAMESPACE
}  // namespace sluice
HWY_AFTER_NAMESPACE();

#endif  // toggle
