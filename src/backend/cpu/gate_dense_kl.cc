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
#include "backend/cpu/far_scores-inl.h"
// clang-format on

#ifndef SLUICE_BACKEND_CPU_GATE_DENSE_KL_ONCE
#define SLUICE_BACKEND_CPU_GATE_DENSE_KL_ONCE
namespace sluice {
constexpr int64_t kKeyBlock = 64;
constexpr int64_t kPairLanes = 2 * kHeadLanes;
}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// Memory of one task, for a pair of neighbouring queries; arrays over far keys as in FarPairScratch.
struct DenseKlScratch {
  FarPairScratch gate;
  FloatScratch floats;
  float* by_channel;      // [channels, 16]
  float* logits;          // [kKeyBlock + 8, 16]
  float *mass[2], *prob;  // Of each query.

  DenseKlScratch(int64_t channels, int64_t size, int64_t gate_heads, int64_t max_far)
      : gate(size, gate_heads, max_far),
        floats(kPairLanes * PaddedChannels(channels) + (kKeyBlock + 16) * kPairLanes +
               3 * (max_far + kPadFarKeys + 16)) {
    by_channel = floats.Take(kPairLanes * PaddedChannels(channels));
    logits = floats.Take((kKeyBlock + 8) * kPairLanes);
    for (float*& row : mass) row = floats.Take(max_far + kPadFarKeys);
    prob = floats.Take(max_far + kPadFarKeys);
  }
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

// The bias of far keys [block, block + count) of the pair, in the logits of those that each query sees.
HWY_INLINE void AddPairBias(const AttentionInputs& in, const FarPair& pair, int64_t block, int64_t count,
                            const float* HWY_RESTRICT weight, float* HWY_RESTRICT logits) {
  for (int64_t i = 0; i < pair.count; ++i) {
    const int64_t begin = std::max(pair.begin + block, pair.own_begin[i]);
    const int64_t end = std::min(pair.begin + block + count, pair.own_end[i]);
    if (begin >= end) continue;
    AddHeadBias<kPairLanes>(in.bias.scores.row<float>(pair.first + i) + begin - pair.own_begin[i],
                            end - begin, weight,
                            logits + (begin - pair.begin - block) * kPairLanes + i * kHeadLanes);
  }
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
    HWY_ALIGN float bias_weight[kHeadLanes];
    if (in.bias.scores.present()) LoadBiasWeight(in.bias, group, kLog2E, bias_weight);
    for (int64_t block = 0; block < n; block += kKeyBlock) {
      const int64_t count = std::min(kKeyBlock, n - block);
      const StridedRows<const float> rows{in.k.row<float>(pair.begin + block) + group.kv_head * channels,
                                          in.k.rows.row_stride()};
      HeadDots<kPairLanes>(rows, count, s.by_channel, channels, s.logits);
      if (in.bias.scores.present()) AddPairBias(in, pair, block, count, bias_weight, s.logits);
      HeadExp2<kPairLanes>(s.logits, (count + 7) / 8 * 8, lse, unused);
      for (int64_t j = 0; j < count; j += 8) {
        AddMasses(s.logits + j * kPairLanes, s.mass[0] + block + j, s.mass[1] + block + j);
      }
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

// Queries [begin, end); dgk is the private row of key 0.
void DenseGateKlRange(const DenseGateKlArgs& args, const std::vector<HeadGroup>& groups, int64_t begin,
                      int64_t end, float* dgk) {
  const AttentionSpan& span = args.in.span;
  const int64_t heads = args.gq.dim(1);
  const int64_t size = args.gq.dim(2);
  DenseKlScratch scratch(args.in.q.dim(2), size, heads, MaxFarKeys(span, begin, end));
  for (int64_t t = begin; t < end; t += 2) {
    const FarPair pair(span, t, std::min<int64_t>(2, end - t));
    const int64_t n = pair.size();
    if (n > 0) {
      FarMass(args, groups, pair, scratch);
      FarPairScores({args.gq, args.gw, args.gk}, pair, scratch.gate);
    }
    for (int64_t i = 0; i < 2; ++i) {
      float* score = scratch.gate.score[i];
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
      FarPairGrads({args.gq, args.gw, args.gk}, args.dgq, args.dgw, pair, dgk, scratch.gate);
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
