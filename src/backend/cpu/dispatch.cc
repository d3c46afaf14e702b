// Dispatch to experts and combine: a counting sort of the served slots, and row copies and weighted
// sums in parallel over tokens. Every row belongs to one token, so tasks never share an output.
#include "ops/dispatch.h"

#include <algorithm>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "base/threads.h"

// The order of these matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/dispatch.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// out[j] += factor · x[j]
void AddScaledRow(const float* HWY_RESTRICT x, float factor, int64_t size, float* HWY_RESTRICT out) {
  for (int64_t j = 0; j < size; ++j) out[j] += factor * x[j];
}

// out[j] = factor · x[j]; returns Σ x[j] y[j].
float ScaleRowAndDot(const float* HWY_RESTRICT x, const float* HWY_RESTRICT y, float factor, int64_t size,
                     float* HWY_RESTRICT out) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const FloatVec scale = hn::Set(d, factor);
  FloatVec sum = hn::Zero(d);
  int64_t j = 0;
  for (; j + lanes <= size; j += lanes) {
    const FloatVec v = hn::LoadU(d, x + j);
    sum = hn::MulAdd(v, hn::LoadU(d, y + j), sum);
    hn::StoreU(hn::Mul(v, scale), d, out + j);
  }
  if (j < size) {
    const size_t rest = static_cast<size_t>(size - j);
    const FloatVec v = LoadPartial(d, x + j, rest);
    sum = hn::MulAdd(v, LoadPartial(d, y + j, rest), sum);
    StorePartial(hn::Mul(v, scale), d, out + j, rest);
  }
  return HorizontalSum(d, sum);
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(AddScaledRow);
HWY_EXPORT(ScaleRowAndDot);

namespace {
constexpr int64_t kTokensPerTask = 64;
}  // namespace

void CpuOps::PlanDispatch(const PlanDispatchArgs& args) {
  const int64_t tokens = args.experts.dim(0);
  const int64_t k = args.experts.dim(1);
  const int64_t num_experts = args.offsets.dim(0) - 1;
  int32_t* offsets = args.offsets.data<int32_t>();
  std::fill_n(offsets, num_experts + 1, 0);
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t* experts = args.experts.row<int32_t>(t);
    for (int64_t i = 0; i < k; ++i) {
      if (experts[i] >= 0) ++offsets[experts[i] + 1];
    }
  }
  for (int64_t e = 0; e < num_experts; ++e) offsets[e + 1] += offsets[e];
  std::vector<int32_t> next(offsets, offsets + num_experts);
  int32_t* row_token = args.row_token.data<int32_t>();
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t* experts = args.experts.row<int32_t>(t);
    int32_t* token_row = args.token_row.row<int32_t>(t);
    for (int64_t i = 0; i < k; ++i) {
      token_row[i] = experts[i] >= 0 ? next[static_cast<size_t>(experts[i])]++ : -1;
      if (token_row[i] >= 0) row_token[token_row[i]] = static_cast<int32_t>(t);
    }
  }
  std::fill(row_token + offsets[num_experts], row_token + args.row_token.dim(0), -1);
}

void CpuOps::Dispatch(const DispatchArgs& args) {
  const int32_t* row_token = args.row_token.data<int32_t>();
  ParallelForRange(args.row_token.dim(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (row_token[r] < 0) continue;
      std::copy_n(args.x.row<float>(row_token[r]), args.x.dim(1), args.rows.row<float>(r));
    }
  });
}

void CpuOps::DispatchGrad(const DispatchGradArgs& args) {
  const int64_t hidden = args.dx.dim(1);
  ParallelForRange(args.dx.dim(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int32_t* token_row = args.token_row.row<int32_t>(t);
      float* dx = args.dx.row<float>(t);
      std::fill_n(dx, hidden, 0.0f);
      for (int64_t i = 0; i < args.token_row.dim(1); ++i) {
        if (token_row[i] < 0) continue;
        HWY_DYNAMIC_DISPATCH(AddScaledRow)(args.drows.row<float>(token_row[i]), 1.0f, hidden, dx);
      }
    }
  });
}

void CpuOps::Combine(const CombineArgs& args) {
  const int64_t hidden = args.out_acc.dim(1);
  ParallelForRange(args.out_acc.dim(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int32_t* token_row = args.token_row.row<int32_t>(t);
      const float* gates = args.gates.row<float>(t);
      for (int64_t i = 0; i < args.token_row.dim(1); ++i) {
        if (token_row[i] < 0) continue;
        HWY_DYNAMIC_DISPATCH(AddScaledRow)
        (args.rows.row<float>(token_row[i]), gates[i], hidden, args.out_acc.row<float>(t));
      }
    }
  });
}

void CpuOps::CombineGrad(const CombineGradArgs& args) {
  const int64_t hidden = args.dout.dim(1);
  ParallelForRange(args.dout.dim(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int32_t* token_row = args.token_row.row<int32_t>(t);
      const float* gates = args.gates.row<float>(t);
      float* dgates = args.dgates.row<float>(t);
      for (int64_t i = 0; i < args.token_row.dim(1); ++i) {
        dgates[i] = 0.0f;
        if (token_row[i] < 0) continue;
        dgates[i] =
            HWY_DYNAMIC_DISPATCH(ScaleRowAndDot)(args.dout.row<float>(t), args.rows.row<float>(token_row[i]),
                                                 gates[i], hidden, args.drows.row<float>(token_row[i]));
      }
    }
  });
}

}  // namespace sluice
#endif  // HWY_ONCE
