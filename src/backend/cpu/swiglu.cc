// SwiGLU and its gradient: out = silu(gate) · up, with s = sigmoid(gate):
//   dgate = dout · up · s (1 + gate (1 − s)),  dup = dout · gate · s
#include "ops/swiglu.h"

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/swiglu_kernel.h"
#include "base/threads.h"

// The order of these matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/swiglu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

void SwiGluRow(const float* gate, const float* up, int64_t size, float* out) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto apply = [&](FloatVec g, FloatVec u) HWY_ATTR { return hn::Mul(hn::Mul(g, Sigmoid(d, g)), u); };
  int64_t j = 0;
  for (; j + lanes <= size; j += lanes) {
    hn::StoreU(apply(hn::LoadU(d, gate + j), hn::LoadU(d, up + j)), d, out + j);
  }
  if (j < size) {
    const size_t rest = static_cast<size_t>(size - j);
    StorePartial(apply(LoadPartial(d, gate + j, rest), LoadPartial(d, up + j, rest)), d, out + j, rest);
  }
}

void SwiGluGradRow(const float* gate, const float* up, const float* dout, int64_t size, float* dgate,
                   float* dup) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const FloatVec one = hn::Set(d, 1.0f);
  const auto apply = [&](FloatVec g, FloatVec u, FloatVec dy, FloatVec& dg, FloatVec& du) HWY_ATTR {
    const FloatVec s = Sigmoid(d, g);
    const FloatVec slope = hn::Mul(s, hn::MulAdd(g, hn::Sub(one, s), one));
    dg = hn::Mul(hn::Mul(dy, u), slope);
    du = hn::Mul(dy, hn::Mul(g, s));
  };
  FloatVec dg, du;
  int64_t j = 0;
  for (; j + lanes <= size; j += lanes) {
    apply(hn::LoadU(d, gate + j), hn::LoadU(d, up + j), hn::LoadU(d, dout + j), dg, du);
    hn::StoreU(dg, d, dgate + j);
    hn::StoreU(du, d, dup + j);
  }
  if (j < size) {
    const size_t rest = static_cast<size_t>(size - j);
    apply(LoadPartial(d, gate + j, rest), LoadPartial(d, up + j, rest), LoadPartial(d, dout + j, rest), dg,
          du);
    StorePartial(dg, d, dgate + j, rest);
    StorePartial(du, d, dup + j, rest);
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(SwiGluRow);
HWY_EXPORT(SwiGluGradRow);

namespace {
constexpr int64_t kRowsPerTask = 32;
}  // namespace

void SwiGluRows(const float* gate, const float* up, int64_t stride, int64_t rows, int64_t size, float* out,
                int64_t out_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    HWY_DYNAMIC_DISPATCH(SwiGluRow)(gate + r * stride, up + r * stride, size, out + r * out_stride);
  }
}

void CpuOps::SwiGlu(const SwiGluArgs& args) {
  const int64_t size = args.out.dim(1);
  ParallelForRange(args.out.dim(0), kRowsPerTask, [&](int64_t begin, int64_t end) {
    const float* gate = args.gate_up.row<float>(begin);
    SwiGluRows(gate, gate + size, args.gate_up.row_stride(), end - begin, size, args.out.row<float>(begin),
               args.out.row_stride());
  });
}

void CpuOps::SwiGluGrad(const SwiGluGradArgs& args) {
  const int64_t size = args.dout.dim(1);
  ParallelForRange(args.dout.dim(0), kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* gate = args.gate_up.row<float>(r);
      float* dgate = args.dgate_up.row<float>(r);
      HWY_DYNAMIC_DISPATCH(SwiGluGradRow)
      (gate, gate + size, args.dout.row<float>(r), size, dgate, dgate + size);
    }
  });
}

}  // namespace sluice
#endif  // HWY_ONCE
