// Distillation of the gate over every far key, blockwise. For one query, with the mass of full
// attention a_s = Σ_h exp(logit[h, s] − lse[h]), A = Σ_s a_s, p = a / A and q = softmax(score):
//   loss = (A / heads + floor) Σ_s p_s (log p_s − log q_s);  dscore = scale (A / heads + floor) (q − p)
// Two neighbouring queries go together. Their a, scores and gate products are kept for their own pass,
// a row of floats per far key; the gradient through the scores is that of gate.cc.
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/head_plan.h"
#include "base/threads.h"
#include "ops/gate.h"
#include "ops/gate_numerics.h"

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/gate_dense_kl.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
#include "backend/cpu/head_kernels-inl.h"
// clang-format on

#ifndef SLUICE_BACKEND_CPU_GATE_DENSE_KL_ONCE
#define SLUICE_BACKEND_CPU_GATE_DENSE_KL_ONCE
namespace sluice {
constexpr int64_t kKeyBlock = 64;
constexpr int64_t kPairLanes = 2 * kHeadLanes;
constexpr int64_t kPadKeys = 32;  // Floats per key array beyond the keys themselves.
}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// Memory of one task, for a pair of neighbouring queries. Arrays over far keys are [far keys + kPadKeys],
// from the first key that one of the two sees. Gate heads come in chunks of 4 for each of the two queries.
struct DenseKlScratch {
  FloatScratch floats;
  float *by_channel, *by_head, *acc;
  float* logits;                     // [kKeyBlock + 8, 16]
  float *mass[2], *score[2], *prob;  // Of each query.
  float* dots;                       // [gate chunks][far keys, 8]
  int64_t dots_stride;

  DenseKlScratch(int64_t channels, int64_t chunks, int64_t max_far)
      : floats(4 * kHeadLanes * PaddedChannels(channels) + (kKeyBlock + 16) * kPairLanes +
               (5 + kHeadLanes * chunks) * (max_far + kPadKeys + 16)) {
    by_channel = floats.Take(kPairLanes * PaddedChannels(channels));
    by_head = floats.Take(kHeadLanes * PaddedChannels(channels));
    acc = floats.Take(kHeadLanes * PaddedChannels(channels));
    logits = floats.Take((kKeyBlock + 8) * kPairLanes);
    for (float*& row : mass) row = floats.Take(max_far + kPadKeys);
    for (float*& row : score) row = floats.Take(max_far + kPadKeys);
    prob = floats.Take(max_far + kPadKeys);
    dots_stride = (max_far + kPadKeys) * kHeadLanes;
    dots = floats.Take(dots_stride * chunks);
  }
};

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

// mass[i][j] += Σ_h probs[j, 8 i + h] for 8 keys.
HWY_INLINE void AddMasses(const float* HWY_RESTRICT probs, float* HWY_RESTRICT mass0,
                          float* HWY_RESTRICT mass1) {
#if HWY_TARGET <= HWY_AVX2
  const LaneTag<kHeadLanes> d;
  const auto row = [&](int64_t j, int64_t i)
                       HWY_ATTR { return hn::Load(d, probs + j * kPairLanes + i * kHeadLanes); };
  for (int64_t i = 0; i < 2; ++i) {
    float* mass = i == 0 ? mass0 : mass1;
    const auto a = SumQuarters(d, row(0, i), row(1, i), row(2, i), row(3, i));
    const auto b = SumQuarters(d, row(4, i), row(5, i), row(6, i), row(7, i));
    const auto sum = hn::Add(hn::ConcatLowerLower(d, b, a), hn::ConcatUpperUpper(d, b, a));
    hn::StoreU(hn::Add(hn::LoadU(d, mass), sum), d, mass);
  }
#else
  for (int64_t j = 0; j < 8; ++j) {
    mass0[j] += SumHeads(probs + j * kPairLanes);
    mass1[j] += SumHeads(probs + j * kPairLanes + kHeadLanes);
  }
#endif
}

// mass[s] = Σ_h exp(logit − lse) over the pair's far keys.
HWY_INLINE void FarMass(const DenseGateKlArgs& args, const std::vector<HeadGroup>& groups,
                        const FarPair& pair, DenseKlScratch& s) {
  const AttentionInputs& in = args.in;
  const int64_t channels = in.q.dim(2);
  const int64_t n = pair.size();
  const float scale = static_cast<float>(kLog2E / std::sqrt(static_cast<double>(channels)));
  for (float* mass : s.mass) std::fill_n(mass, n + 8, 0.0f);
  for (const HeadGroup& group : groups) {
    HWY_ALIGN float lse[kPairLanes];
    HWY_ALIGN float unused[kPairLanes] = {};
    for (int64_t i = 0; i < 2; ++i) {
      const int64_t t = pair.Row(i);
      TransposeHeads<kPairLanes>(in.q.row<float>(t) + group.first_head * channels, group.rows, channels,
                                 scale, s.by_channel + i * kHeadLanes);
      // Heads that do not exist have logit 0: probability 0.
      LoadHeadValues(args.lse.row<float>(t) + group.first_head, group.rows, 1000.0f, lse + i * kHeadLanes);
    }
    for (float& value : lse) value *= static_cast<float>(kLog2E);
    for (int64_t block = 0; block < n; block += kKeyBlock) {
      const int64_t count = std::min(kKeyBlock, n - block);
      const StridedRows<const float> rows{in.k.row<float>(pair.begin + block) + group.kv_head * channels,
                                          in.k.row_stride()};
      HeadDots<kPairLanes>(rows, count, s.by_channel, channels, s.logits);
      HeadExp2<kPairLanes>(s.logits, (count + 7) / 8 * 8, lse, unused);
      for (int64_t j = 0; j < count; j += 8) {
        AddMasses(s.logits + j * kPairLanes, s.mass[0] + block + j, s.mass[1] + block + j);
      }
    }
  }
}

// Lanes 4 i + h: softplus(gw) of head first + h of query i, 0 where there is no such head or query.
HWY_INLINE void PairWeights(const DenseGateKlArgs& args, const FarPair& pair, int64_t first, int64_t heads,
                            float* HWY_RESTRICT weight) {
  std::fill_n(weight, kHeadLanes, 0.0f);
  for (int64_t i = 0; i < pair.count; ++i) {
    const float* gw = args.gw.row<float>(pair.first + i) + first;
    for (int64_t h = 0; h < heads; ++h) weight[4 * i + h] = GateHeadWeight(gw[h]);
  }
}

// by_head [8, padded] and by_channel [size, 8] of gate heads [first, first + heads) of both queries.
HWY_INLINE void PreparePair(const DenseGateKlArgs& args, const FarPair& pair, int64_t first, int64_t heads,
                            DenseKlScratch& s) {
  const int64_t size = args.gq.dim(2);
  const int64_t padded = PaddedChannels(size);
  std::fill_n(s.by_head, kHeadLanes * padded, 0.0f);
  for (int64_t i = 0; i < pair.count; ++i) {
    for (int64_t h = 0; h < heads; ++h) {
      std::copy_n(args.gq.row<float>(pair.first + i) + (first + h) * size, size,
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
HWY_INLINE void FarScores(const DenseGateKlArgs& args, const FarPair& pair, DenseKlScratch& s) {
  const int64_t heads = args.gq.dim(1);
  const int64_t n = pair.size();
  for (float* score : s.score) std::fill_n(score, n + 8, 0.0f);
  for (int64_t first = 0; first < heads; first += 4) {
    float* dots = s.dots + first / 4 * s.dots_stride;
    HWY_ALIGN float weight[kHeadLanes];
    PairWeights(args, pair, first, std::min<int64_t>(4, heads - first), weight);
    PreparePair(args, pair, first, std::min<int64_t>(4, heads - first), s);
    HeadDots<kHeadLanes>(StridedRows<const float>{args.gk.row<float>(pair.begin), args.gk.row_stride()}, n,
                         s.by_channel, args.gq.dim(2), dots);
    for (int64_t j = 0; j < n; j += 4) {
      AddScores(dots + j * kHeadLanes, weight, s.score[0] + j, s.score[1] + j);
    }
  }
}

// The loss of one query over its n > 0 far keys; score becomes dscore.
HWY_INLINE float DivergenceAndGrad(const DenseGateKlArgs& args, int64_t n, float* HWY_RESTRICT mass,
                                   float* HWY_RESTRICT score, float* HWY_RESTRICT probs) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t end = (n + lanes - 1) / lanes * lanes;
  const FloatVec zero = hn::Zero(d);
  for (int64_t j = n; j < end; ++j) {
    mass[j] = 0.0f;
    score[j] = -std::numeric_limits<float>::infinity();
  }
  FloatVec masses = zero;
  FloatVec top = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (int64_t j = 0; j < end; j += lanes) {
    masses = hn::Add(masses, hn::LoadU(d, mass + j));
    top = hn::Max(top, hn::LoadU(d, score + j));
  }
  const float total_mass = HorizontalSum(d, masses);
  const FloatVec highest = hn::Set(d, HorizontalMax(d, top));
  FloatVec total = zero;
  for (int64_t j = 0; j < end; j += lanes) {
    const FloatVec p = ExpNonPositive(d, hn::Sub(hn::LoadU(d, score + j), highest));
    hn::Store(p, d, probs + j);
    total = hn::Add(total, p);
  }
  const float sum = HorizontalSum(d, total);
  const FloatVec lse = hn::Set(d, hn::GetLane(highest) + std::log(sum));
  if (!(total_mass > 0)) {
    std::fill_n(score, n, 0.0f);
    return 0.0f;
  }
  const FloatVec inverse_mass = hn::Set(d, 1.0f / total_mass);
  const FloatVec inverse_sum = hn::Set(d, 1.0f / sum);
  const FloatVec tiny = hn::Set(d, std::numeric_limits<float>::min());
  const float weight =
      total_mass / static_cast<float>(args.in.q.dim(1)) + static_cast<float>(args.mass_floor);
  const FloatVec factor = hn::Set(d, weight * static_cast<float>(args.scale));
  FloatVec divergence = zero;
  for (int64_t j = 0; j < end; j += lanes) {
    const FloatVec target = hn::Mul(hn::LoadU(d, mass + j), inverse_mass);
    const FloatVec log_ratio =
        hn::Sub(Logarithm(d, hn::Max(target, tiny)), hn::Sub(hn::LoadU(d, score + j), lse));
    divergence = hn::Add(divergence, hn::IfThenElse(hn::Gt(target, zero), hn::Mul(target, log_ratio), zero));
    const FloatVec prob = hn::Mul(hn::Load(d, probs + j), inverse_sum);
    hn::StoreU(hn::Mul(factor, hn::Sub(prob, target)), d, score + j);
  }
  return weight * HorizontalSum(d, divergence);
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
HWY_INLINE void ScoreGrads(const DenseGateKlArgs& args, const FarPair& pair, float* dgk, DenseKlScratch& s) {
  const int64_t heads = args.gq.dim(1);
  const int64_t size = args.gq.dim(2);
  const int64_t padded = PaddedChannels(size);
  const int64_t n = pair.size();
  HWY_ALIGN float ones[kHeadLanes];
  std::fill_n(ones, kHeadLanes, 1.0f);
  for (int64_t first = 0; first < heads; first += 4) {
    const int64_t rows = std::min<int64_t>(4, heads - first);
    float* dots = s.dots + first / 4 * s.dots_stride;
    HWY_ALIGN float weight[kHeadLanes];
    HWY_ALIGN float dweight[kHeadLanes];
    PairWeights(args, pair, first, rows, weight);
    PreparePair(args, pair, first, rows, s);
    PairDotGrads(s.score[0], s.score[1], n, weight, dots, dweight);
    std::fill_n(s.acc, kHeadLanes * padded, 0.0f);
    WeightedSum<kHeadLanes>(StridedRows<const float>{args.gk.row<float>(pair.begin), args.gk.row_stride()}, n,
                            dots, kHeadLanes, size, s.acc);
    SpreadHeads<kHeadLanes>(StridedRows<float>{dgk + pair.begin * size, size}, n, dots, s.by_head, kHeadLanes,
                            size);
    for (int64_t i = 0; i < pair.count; ++i) {
      const int64_t t = pair.first + i;
      StoreHeads(s.acc + 4 * i * padded, ones, rows, size, args.dgq.row<float>(t) + first * size);
      const float* gw = args.gw.row<float>(t) + first;
      for (int64_t h = 0; h < rows; ++h) {
        args.dgw.row<float>(t)[first + h] = dweight[4 * i + h] / (1.0f + std::exp(-gw[h]));
      }
    }
  }
}

// Queries [begin, end); dgk is the private row of key 0.
void DenseGateKlRange(const DenseGateKlArgs& args, const std::vector<HeadGroup>& groups, int64_t begin,
                      int64_t end, float* dgk) {
  const AttentionSpan& span = args.in.span;
  const int64_t heads = args.gq.dim(1);
  const int64_t size = args.gq.dim(2);
  int64_t max_far = 0;
  for (int64_t t = begin; t < end; t += 2) {
    max_far = std::max(max_far, FarPair(span, t, std::min<int64_t>(2, end - t)).size());
  }
  DenseKlScratch scratch(std::max(args.in.q.dim(2), size), (heads + 3) / 4, max_far);
  for (int64_t t = begin; t < end; t += 2) {
    const FarPair pair(span, t, std::min<int64_t>(2, end - t));
    const int64_t n = pair.size();
    if (n > 0) {
      FarMass(args, groups, pair, scratch);
      FarScores(args, pair, scratch);
    }
    for (int64_t i = 0; i < 2; ++i) {
      float* score = scratch.score[i];
      const int64_t own = i < pair.count ? std::max<int64_t>(pair.own_end[i] - pair.own_begin[i], 0) : 0;
      const int64_t offset = own > 0 ? pair.own_begin[i] - pair.begin : 0;
      float loss = 0;
      if (own > 0)
        loss = DivergenceAndGrad(args, own, scratch.mass[i] + offset, score + offset, scratch.prob);
      if (i < pair.count) args.loss.data<float>()[t + i] = loss;
      std::fill_n(score, offset, 0.0f);
      std::fill(score + offset + own, score + std::max(n, offset + own), 0.0f);
    }
    if (n > 0) {
      ScoreGrads(args, pair, dgk, scratch);
      continue;
    }
    for (int64_t i = 0; i < pair.count; ++i) {
      std::fill_n(args.dgq.row<float>(t + i), heads * size, 0.0f);
      std::fill_n(args.dgw.row<float>(t + i), heads, 0.0f);
    }
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(DenseGateKlRange);

namespace {
constexpr int64_t kGradPartitions = 8;
}  // namespace

void CpuOps::DenseGateKl(const DenseGateKlArgs& args) {
  const AttentionSpan& span = args.in.span;
  const std::vector<HeadGroup> groups = HeadGroups(args.in.q.dim(1), args.in.k.dim(1));
  const std::vector<QueryPartition> partitions =
      PartitionQueries(span, args.gq.dim(0), kGradPartitions, [&](int64_t t) { return span.NumFar(t) + 8; });
  PartitionedRows dgk(partitions, args.gk.dim(1));
  ParallelFor(static_cast<int64_t>(partitions.size()), [&](int64_t i) {
    const QueryPartition& part = partitions[static_cast<size_t>(i)];
    dgk.Clear(i);
    HWY_DYNAMIC_DISPATCH(DenseGateKlRange)(args, groups, part.begin, part.end, dgk.Base(i));
  });
  dgk.Reduce(args.dgk);
}

}  // namespace sluice
#endif  // HWY_ONCE
