// Gate scores of every far key and their gradient; the arithmetic is in far_scores-inl.h.
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/head_plan.h"
#include "base/threads.h"
#include "ops/gate.h"
#include "ops/gate_numerics.h"

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/far_scores.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
#include "backend/cpu/head_kernels-inl.h"
#include "backend/cpu/far_scores-inl.h"
// clang-format on

#ifndef SLUICE_BACKEND_CPU_FAR_SCORES_ONCE
#define SLUICE_BACKEND_CPU_FAR_SCORES_ONCE
namespace sluice {
constexpr int64_t kTileTokens = 16;
constexpr int64_t kGradPartitions = 8;
}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// Queries [begin, end).
void FarScoresRange(const FarScoresArgs& args, int64_t begin, int64_t end) {
  FarPairScratch scratch(args.gq.dim(2), args.gq.dim(1), MaxFarKeys(args.span, begin, end));
  const int64_t columns = args.scores.dim(1);
  for (int64_t t = begin; t < end; t += 2) {
    const FarPair pair(args.span, t, std::min<int64_t>(2, end - t));
    if (pair.size() > 0) FarPairScores({args.gq, args.gw, args.gk}, pair, scratch);
    for (int64_t i = 0; i < pair.count; ++i) {
      float* row = args.scores.row<float>(t + i);
      const int64_t own = std::max<int64_t>(pair.own_end[i] - pair.own_begin[i], 0);
      if (own > 0) std::copy_n(scratch.score[i] + pair.own_begin[i] - pair.begin, own, row);
      std::fill(row + own, row + columns, 0.0f);
    }
  }
}

// Queries [begin, end); dgk is the private row of key 0.
void FarScoresGradRange(const FarScoresGradArgs& args, int64_t begin, int64_t end, float* dgk) {
  FarPairScratch scratch(args.gq.dim(2), args.gq.dim(1), MaxFarKeys(args.span, begin, end));
  for (int64_t t = begin; t < end; t += 2) {
    const FarPair pair(args.span, t, std::min<int64_t>(2, end - t));
    if (pair.size() == 0) {
      for (int64_t i = 0; i < pair.count; ++i) {
        std::fill_n(args.dgq.row<float>(t + i), args.gq.dim(1) * args.gq.dim(2), 0.0f);
        std::fill_n(args.dgw.row<float>(t + i), args.gq.dim(1), 0.0f);
      }
      continue;
    }
    FarPairScores({args.gq, args.gw, args.gk}, pair, scratch);
    for (int64_t i = 0; i < 2; ++i) {
      std::fill_n(scratch.score[i], pair.size() + 8, 0.0f);
      const int64_t own = i < pair.count ? pair.own_end[i] - pair.own_begin[i] : 0;
      if (own > 0) {
        std::copy_n(args.dscores.row<float>(t + i), own, scratch.score[i] + pair.own_begin[i] - pair.begin);
      }
    }
    FarPairGrads({args.gq, args.gw, args.gk}, args.dgq, args.dgw, pair, dgk, scratch);
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(FarScoresRange);
HWY_EXPORT(FarScoresGradRange);

void CpuOps::FarScores(const FarScoresArgs& args) {
  ParallelForRange(args.gq.dim(0), kTileTokens, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(FarScoresRange)(args, begin, end);
  });
}

void CpuOps::FarScoresGrad(const FarScoresGradArgs& args) {
  const std::vector<QueryPartition> partitions = PartitionQueries(
      args.span, args.gq.dim(0), kGradPartitions, [&](int64_t t) { return args.span.NumFar(t) + 8; });
  PartitionedRows dgk(partitions, args.gk.dim(1));
  ParallelFor(static_cast<int64_t>(partitions.size()), [&](int64_t i) {
    const QueryPartition& part = partitions[static_cast<size_t>(i)];
    dgk.Clear(i);
    HWY_DYNAMIC_DISPATCH(FarScoresGradRange)(args, part.begin, part.end, dgk.Base(i));
  });
  dgk.Reduce(args.dgk);
}

}  // namespace sluice
#endif  // HWY_ONCE
