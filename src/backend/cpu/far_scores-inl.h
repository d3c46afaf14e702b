// Gate scores of every far key of two neighbouring queries, and their gradient:
//   score(t, s) = Σ_h w[t, h] · max(0, gq[t, h] · gk[s]),   w = softplus(gw)
//   ddot[t, h, s] = dscore w where the product is positive, else 0;  dgq = Σ_s ddot gk;  dgk = Σ_{t, h} ddot
//   gq
// Lanes are 4 gate heads of each of the two queries. Included like head_kernels-inl.h, after it.
#if defined(SLUICE_BACKEND_CPU_FAR_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SLUICE_BACKEND_CPU_FAR_SCORES_INL_H_
#undef SLUICE_BACKEND_CPU_FAR_SCORES_INL_H_
#else
#define SLUICE_BACKEND_CPU_FAR_SCORES_INL_H_
#endif

#include <cmath>
#include <limits>

#include "backend/cpu/head_kernels-inl.h"
#include "ops/gate.h"
#include "ops/gate_numerics.h"

HWY_BEFORE_NAMESPACE();
namespace sluice {
namespace HWY_NAMESPACE {

// Queries first and, if count is 2, first + 1; far keys [begin, end) are seen by at least one of them.
struct FarPair {
  int64_t first;
  int64_t count;
  int64_t begin = std::numeric_limits<int64_t>::max();
  int64_t end = 0;
  int64_t own_begin[2] = {0, 0};
  int64_t own_end[2] = {0, 0};

  FarPair(const AttentionSpan& span, int64_t first_query, int64_t num_queries)
      : first(first_query), count(num_queries) {
    for (int64_t i = 0; i < count; ++i) {
      own_begin[i] = span.SinksEnd(first + i);
      own_end[i] = span.WindowBegin(first + i);
      if (own_begin[i] >= own_end[i]) continue;
      begin = std::min(begin, own_begin[i]);
      end = std::max(end, own_end[i]);
    }
  }
  int64_t size() const { return std::max<int64_t>(end - begin, 0); }
  // The row of query i; a missing second query stands in for the first.
  int64_t Row(int64_t i) const { return first + std::min(i, count - 1); }
};

struct GateRows {
  const TensorView& gq;  // [tokens, gate_heads, size]
  const TensorView& gw;  // [tokens, gate_heads]
  const TensorView& gk;  // [keys, size]
};

inline constexpr int64_t kPadFarKeys = 32;  // Floats per key array beyond the keys themselves.

// Memory of one task. Arrays over far keys are [far keys + kPadFarKeys], from the first key that one of the
// two queries sees. Gate heads come in chunks of 4 for each of the two.
struct FarPairScratch {
  FloatScratch floats;
  float *by_channel, *by_head, *acc;
  float* score[2];  // Of each query.
  float* dots;      // [gate chunks][far keys, 8]
  int64_t dots_stride;

  FarPairScratch(int64_t size, int64_t gate_heads, int64_t max_far)
      : floats(3 * kHeadLanes * PaddedChannels(size) +
               (2 + kHeadLanes * ((gate_heads + 3) / 4)) * (max_far + kPadFarKeys + 16)) {
    by_channel = floats.Take(kHeadLanes * PaddedChannels(size));
    by_head = floats.Take(kHeadLanes * PaddedChannels(size));
    acc = floats.Take(kHeadLanes * PaddedChannels(size));
    for (float*& row : score) row = floats.Take(max_far + kPadFarKeys);
    dots_stride = (max_far + kPadFarKeys) * kHeadLanes;
    dots = floats.Take(dots_stride * ((gate_heads + 3) / 4));
  }
};

// The most far keys that a pair of queries [begin, end) sees.
inline int64_t MaxFarKeys(const AttentionSpan& span, int64_t begin, int64_t end) {
  int64_t max_far = 0;
  for (int64_t t = begin; t < end; t += 2) {
    max_far = std::max(max_far, FarPair(span, t, std::min<int64_t>(2, end - t)).size());
  }
  return max_far;
}

// Lanes 4 i + h: softplus(gw) of head first + h of query i, 0 where there is no such head or query.
HWY_INLINE void PairWeights(const GateRows& gate, const FarPair& pair, int64_t first, int64_t heads,
                            float* HWY_RESTRICT weight) {
  std::fill_n(weight, kHeadLanes, 0.0f);
  for (int64_t i = 0; i < pair.count; ++i) {
    const float* gw = gate.gw.row<float>(pair.first + i) + first;
    for (int64_t h = 0; h < heads; ++h) weight[4 * i + h] = GateHeadWeight(gw[h]);
  }
}

// by_head [8, padded] and by_channel [size, 8] of gate heads [first, first + heads) of both queries.
HWY_INLINE void PrepareGatePair(const GateRows& gate, const FarPair& pair, int64_t first, int64_t heads,
                                FarPairScratch& s) {
  const int64_t size = gate.gq.dim(2);
  const int64_t padded = PaddedChannels(size);
  std::fill_n(s.by_head, kHeadLanes * padded, 0.0f);
  for (int64_t i = 0; i < pair.count; ++i) {
    for (int64_t h = 0; h < heads; ++h) {
      std::copy_n(gate.gq.row<float>(pair.first + i) + (first + h) * size, size,
                  s.by_head + (4 * i + h) * padded);
    }
  }
  for (int64_t c = 0; c < size; ++c) {
    for (int64_t l = 0; l < kHeadLanes; ++l) s.by_channel[c * kHeadLanes + l] = s.by_head[l * padded + c];
  }
}

// score[i][j] += Σ_h weight · max(0, dot) of query i for 4 keys.
HWY_INLINE void AddScores(const float* HWY_RESTRICT dots, const float* HWY_RESTRICT weight,
                          float* HWY_RESTRICT score0, float* HWY_RESTRICT score1) {
#if HWY_TARGET <= HWY_AVX2
  const LaneTag<kHeadLanes> d;
  const LaneTag<kHeadLanes / 2> dh;
  const auto w = hn::Load(d, weight);
  const auto term = [&](int64_t j) HWY_ATTR {
    return hn::Mul(w, hn::Max(hn::Load(d, dots + j * kHeadLanes), hn::Zero(d)));
  };
  const auto sum = SumQuarters(d, term(0), term(1), term(2), term(3));
  hn::StoreU(hn::Add(hn::LoadU(dh, score0), hn::LowerHalf(dh, sum)), dh, score0);
  hn::StoreU(hn::Add(hn::LoadU(dh, score1), hn::UpperHalf(dh, sum)), dh, score1);
#else
  for (int64_t j = 0; j < 4; ++j) {
    for (int64_t h = 0; h < 4; ++h) {
      score0[j] += weight[h] * std::max(0.0f, dots[j * kHeadLanes + h]);
      score1[j] += weight[4 + h] * std::max(0.0f, dots[j * kHeadLanes + 4 + h]);
    }
  }
#endif
}

// Both queries' scores and the products behind them.
HWY_INLINE void FarPairScores(const GateRows& gate, const FarPair& pair, FarPairScratch& s) {
  const int64_t heads = gate.gq.dim(1);
  const int64_t n = pair.size();
  for (float* score : s.score) std::fill_n(score, n + 8, 0.0f);
  for (int64_t first = 0; first < heads; first += 4) {
    float* dots = s.dots + first / 4 * s.dots_stride;
    HWY_ALIGN float weight[kHeadLanes];
    PairWeights(gate, pair, first, std::min<int64_t>(4, heads - first), weight);
    PrepareGatePair(gate, pair, first, std::min<int64_t>(4, heads - first), s);
    HeadDots<kHeadLanes>(StridedRows<const float>{gate.gk.row<float>(pair.begin), gate.gk.row_stride()}, n,
                         s.by_channel, gate.gq.dim(2), dots);
    for (int64_t j = 0; j < n; j += 4) {
      AddScores(dots + j * kHeadLanes, weight, s.score[0] + j, s.score[1] + j);
    }
  }
}

// dots become dscore · weight where positive, else 0; dweight[l] += dscore · max(0, dot).
HWY_INLINE void PairDotGrads(const float* HWY_RESTRICT dscore0, const float* HWY_RESTRICT dscore1, int64_t n,
                             const float* HWY_RESTRICT weight, float* HWY_RESTRICT dots,
                             float* HWY_RESTRICT dweight) {
#if HWY_TARGET <= HWY_AVX2
  const LaneTag<kHeadLanes> d;
  const auto w = hn::Load(d, weight);
  auto sum = hn::Zero(d);
  for (int64_t j = 0; j < n; ++j) {
    const auto dscore = hn::ConcatLowerLower(d, hn::Set(d, dscore1[j]), hn::Set(d, dscore0[j]));
    const auto dot = hn::Load(d, dots + j * kHeadLanes);
    sum = hn::MulAdd(dscore, hn::Max(dot, hn::Zero(d)), sum);
    hn::Store(hn::IfThenElseZero(hn::Gt(dot, hn::Zero(d)), hn::Mul(dscore, w)), d, dots + j * kHeadLanes);
  }
  hn::Store(sum, d, dweight);
#else
  std::fill_n(dweight, kHeadLanes, 0.0f);
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t l = 0; l < kHeadLanes; ++l) {
      float& dot = dots[j * kHeadLanes + l];
      const float dscore = l < 4 ? dscore0[j] : dscore1[j];
      dweight[l] += dscore * std::max(0.0f, dot);
      dot = dot > 0 ? dscore * weight[l] : 0.0f;
    }
  }
#endif
}

// dgq, dgw of the pair and its part of dgk, from the dscores in s.score.
HWY_INLINE void FarPairGrads(const GateRows& gate, const TensorView& dgq, const TensorView& dgw,
                             const FarPair& pair, float* dgk, FarPairScratch& s) {
  const int64_t heads = gate.gq.dim(1);
  const int64_t size = gate.gq.dim(2);
  const int64_t padded = PaddedChannels(size);
  const int64_t n = pair.size();
  HWY_ALIGN float ones[kHeadLanes];
  std::fill_n(ones, kHeadLanes, 1.0f);
  for (int64_t first = 0; first < heads; first += 4) {
    const int64_t rows = std::min<int64_t>(4, heads - first);
    float* dots = s.dots + first / 4 * s.dots_stride;
    HWY_ALIGN float weight[kHeadLanes];
    HWY_ALIGN float dweight[kHeadLanes];
    PairWeights(gate, pair, first, rows, weight);
    PrepareGatePair(gate, pair, first, rows, s);
    PairDotGrads(s.score[0], s.score[1], n, weight, dots, dweight);
    std::fill_n(s.acc, kHeadLanes * padded, 0.0f);
    WeightedSum<kHeadLanes>(StridedRows<const float>{gate.gk.row<float>(pair.begin), gate.gk.row_stride()}, n,
                            dots, kHeadLanes, size, s.acc);
    SpreadHeads<kHeadLanes>(StridedRows<float>{dgk + pair.begin * size, size}, n, dots, s.by_head, kHeadLanes,
                            size);
    for (int64_t i = 0; i < pair.count; ++i) {
      const int64_t t = pair.first + i;
      StoreHeads(s.acc + 4 * i * padded, ones, rows, size, dgq.row<float>(t) + first * size);
      const float* gw = gate.gw.row<float>(t) + first;
      for (int64_t h = 0; h < rows; ++h) {
        dgw.row<float>(t)[first + h] = dweight[4 * i + h] / (1.0f + std::exp(-gw[h]));
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace sluice
HWY_AFTER_NAMESPACE();

#endif  // toggle
