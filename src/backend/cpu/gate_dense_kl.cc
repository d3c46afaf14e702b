// Distillation of the gate over every far key, blockwise. For one query, with the mass of full
// attention a_s = Σ_h exp(logit[h, s] − lse[h]), A = Σ_s a_s, p = a / A and q = softmax(score):
//   loss = (A / heads + floor) Σ_s p_s (log p_s − log q_s);  dscore = scale (A / heads + floor) (q − p)
// A query's a, scores and gate products are kept for its own pass, one row of floats per far key; the
// gradient through the scores is that of gate.cc.
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
constexpr int64_t kPadKeys = 32;  // Floats per key array beyond the keys themselves.
}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// Memory of one task. Arrays over far keys are [num_far + kPadKeys]; those over (key, head) x 8.
struct DenseKlScratch {
  FloatScratch floats;
  float *by_head, *by_channel, *acc;
  float *logits, *mass, *score, *prob;
  float* dots;  // [gate chunks][far keys, 8]
  int64_t dots_stride;

  DenseKlScratch(int64_t channels, int64_t chunks, int64_t max_far)
      : floats(3 * kHeadLanes * PaddedChannels(channels) + (kKeyBlock + 16) * kHeadLanes +
               (3 + kHeadLanes * chunks) * (max_far + kPadKeys + 16)) {
    by_head = floats.Take(kHeadLanes * PaddedChannels(channels));
    by_channel = floats.Take(kHeadLanes * PaddedChannels(channels));
    acc = floats.Take(kHeadLanes * PaddedChannels(channels));
    logits = floats.Take((kKeyBlock + 16) * kHeadLanes);
    mass = floats.Take(max_far + kPadKeys);
    score = floats.Take(max_far + kPadKeys);
    prob = floats.Take(max_far + kPadKeys);
    dots_stride = (max_far + kPadKeys) * kHeadLanes;
    dots = floats.Take(dots_stride * chunks);
  }
};

// mass[s] = Σ_h exp(logit − lse) over far keys [begin, begin + n).
HWY_INLINE void FarMass(const DenseGateKlArgs& args, const std::vector<HeadGroup>& groups, int64_t t,
                        int64_t begin, int64_t n, DenseKlScratch& s) {
  const AttentionInputs& in = args.in;
  const int64_t channels = in.q.dim(2);
  const float scale = static_cast<float>(kLog2E / std::sqrt(static_cast<double>(channels)));
  std::fill_n(s.mass, n, 0.0f);
  for (const HeadGroup& group : groups) {
    TransposeHeads<kHeadLanes>(in.q.row<float>(t) + group.first_head * channels, group.rows, channels, scale,
                               s.by_channel);
    HWY_ALIGN float lse[kHeadLanes];
    HWY_ALIGN float unused[kHeadLanes] = {};
    // Heads that do not exist have logit 0: probability 0.
    LoadHeadValues(args.lse.row<float>(t) + group.first_head, group.rows, 1000.0f, lse);
    for (float& value : lse) value *= static_cast<float>(kLog2E);
    for (int64_t block = 0; block < n; block += kKeyBlock) {
      const int64_t count = std::min(kKeyBlock, n - block);
      const StridedRows<const float> rows{in.k.row<float>(begin + block) + group.kv_head * channels,
                                          in.k.row_stride()};
      HeadDots<kHeadLanes>(rows, count, s.by_channel, channels, s.logits);
      HeadExp2<kHeadLanes>(s.logits, count, lse, unused);
      for (int64_t j = 0; j < count; ++j) s.mass[block + j] += SumHeads(s.logits + j * kHeadLanes);
    }
  }
}

// score[s] and the products behind it.
HWY_INLINE void FarScores(const DenseGateKlArgs& args, int64_t t, int64_t begin, int64_t n,
                          DenseKlScratch& s) {
  const int64_t heads = args.gq.dim(1);
  const int64_t size = args.gq.dim(2);
  std::fill_n(s.score, n, 0.0f);
  for (int64_t first = 0; first < heads; first += kHeadLanes) {
    const int64_t rows = std::min(kHeadLanes, heads - first);
    float* dots = s.dots + first / kHeadLanes * s.dots_stride;
    TransposeHeads<kHeadLanes>(args.gq.row<float>(t) + first * size, rows, size, 1.0f, s.by_channel);
    HeadDots<kHeadLanes>(StridedRows<const float>{args.gk.row<float>(begin), args.gk.row_stride()}, n,
                         s.by_channel, size, dots);
    HWY_ALIGN float weight[kHeadLanes] = {};
    for (int64_t h = 0; h < rows; ++h) weight[h] = GateHeadWeight(args.gw.row<float>(t)[first + h]);
    for (int64_t j = 0; j < n; ++j) {
      HWY_ALIGN float terms[kHeadLanes];
      for (int64_t h = 0; h < kHeadLanes; ++h)
        terms[h] = weight[h] * std::max(0.0f, dots[j * kHeadLanes + h]);
      s.score[j] += SumHeads(terms);
    }
  }
}

// The loss of one query; score becomes dscore. REQUIRES: n > 0.
HWY_INLINE float DivergenceAndGrad(const DenseGateKlArgs& args, int64_t n, DenseKlScratch& s) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t end = (n + lanes - 1) / lanes * lanes;
  const FloatVec zero = hn::Zero(d);
  for (int64_t j = n; j < end; ++j) {
    s.mass[j] = 0.0f;
    s.score[j] = -std::numeric_limits<float>::infinity();
  }
  FloatVec masses = zero;
  FloatVec top = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (int64_t j = 0; j < end; j += lanes) {
    masses = hn::Add(masses, hn::Load(d, s.mass + j));
    top = hn::Max(top, hn::Load(d, s.score + j));
  }
  const float total_mass = HorizontalSum(d, masses);
  const FloatVec highest = hn::Set(d, HorizontalMax(d, top));
  FloatVec total = zero;
  for (int64_t j = 0; j < end; j += lanes) {
    const FloatVec p = ExpNonPositive(d, hn::Sub(hn::Load(d, s.score + j), highest));
    hn::Store(p, d, s.prob + j);
    total = hn::Add(total, p);
  }
  const float sum = HorizontalSum(d, total);
  const FloatVec lse = hn::Set(d, hn::GetLane(highest) + std::log(sum));
  if (!(total_mass > 0)) {
    std::fill_n(s.score, n, 0.0f);
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
    const FloatVec target = hn::Mul(hn::Load(d, s.mass + j), inverse_mass);
    const FloatVec log_ratio =
        hn::Sub(Logarithm(d, hn::Max(target, tiny)), hn::Sub(hn::Load(d, s.score + j), lse));
    divergence = hn::Add(divergence, hn::IfThenElse(hn::Gt(target, zero), hn::Mul(target, log_ratio), zero));
    const FloatVec prob = hn::Mul(hn::Load(d, s.prob + j), inverse_sum);
    hn::Store(hn::Mul(factor, hn::Sub(prob, target)), d, s.score + j);
  }
  return weight * HorizontalSum(d, divergence);
}

// dgq, dgw of one query and its part of dgk, from the dscores in s.score.
HWY_INLINE void ScoreGrads(const DenseGateKlArgs& args, int64_t t, int64_t begin, int64_t n, float* dgk,
                           DenseKlScratch& s) {
  const int64_t heads = args.gq.dim(1);
  const int64_t size = args.gq.dim(2);
  HWY_ALIGN float ones[kHeadLanes];
  std::fill_n(ones, kHeadLanes, 1.0f);
  for (int64_t first = 0; first < heads; first += kHeadLanes) {
    const int64_t rows = std::min(kHeadLanes, heads - first);
    float* dots = s.dots + first / kHeadLanes * s.dots_stride;
    const float* gw = args.gw.row<float>(t) + first;
    HWY_ALIGN float weight[kHeadLanes] = {};
    HWY_ALIGN float dweight[kHeadLanes] = {};
    for (int64_t h = 0; h < rows; ++h) weight[h] = GateHeadWeight(gw[h]);
    for (int64_t j = 0; j < n; ++j) {
      float* row = dots + j * kHeadLanes;
      const float dscore = s.score[j];
      for (int64_t h = 0; h < kHeadLanes; ++h) {
        dweight[h] += dscore * std::max(0.0f, row[h]);
        row[h] = row[h] > 0 ? dscore * weight[h] : 0.0f;
      }
    }
    PadHeads(args.gq.row<float>(t) + first * size, rows, size, 1.0f, s.by_head);
    std::fill_n(s.acc, kHeadLanes * PaddedChannels(size), 0.0f);
    WeightedSum<kHeadLanes>(StridedRows<const float>{args.gk.row<float>(begin), args.gk.row_stride()}, n,
                            dots, rows, size, s.acc);
    StoreHeads(s.acc, ones, rows, size, args.dgq.row<float>(t) + first * size);
    SpreadHeads<kHeadLanes>(StridedRows<float>{dgk + begin * size, size}, n, dots, s.by_head, rows, size);
    for (int64_t h = 0; h < rows; ++h) {
      args.dgw.row<float>(t)[first + h] = dweight[h] / (1.0f + std::exp(-gw[h]));
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
  for (int64_t t = begin; t < end; ++t) max_far = std::max(max_far, span.NumFar(t));
  DenseKlScratch scratch(std::max(args.in.q.dim(2), size), (heads + kHeadLanes - 1) / kHeadLanes, max_far);
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = span.SinksEnd(t);
    const int64_t n = span.NumFar(t);
    if (n <= 0) {
      args.loss.data<float>()[t] = 0;
      std::fill_n(args.dgq.row<float>(t), heads * size, 0.0f);
      std::fill_n(args.dgw.row<float>(t), heads, 0.0f);
      continue;
    }
    FarMass(args, groups, t, first, n, scratch);
    FarScores(args, t, first, n, scratch);
    args.loss.data<float>()[t] = DivergenceAndGrad(args, n, scratch);
    ScoreGrads(args, t, first, n, dgk, scratch);
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
