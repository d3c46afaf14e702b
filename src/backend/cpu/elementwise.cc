// Elementwise helpers. SiLU's gradient, with s = sigmoid(x): dx = dout · s (1 + x (1 − s)).
// Sums of squares are taken in float64: per run of elements in a fixed lane order, runs in order.
#include "ops/elementwise.h"

#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/spans.h"

// The order of these matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/elementwise.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

void AddSpan(const float* x, int64_t size, float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] += x[i];
}

void ScaleSpan(float factor, int64_t size, float* x) {
  for (int64_t i = 0; i < size; ++i) x[i] *= factor;
}

void SiluSpan(const float* x, int64_t size, float* out) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    const FloatVec v = hn::LoadU(d, x + i);
    hn::StoreU(hn::Mul(v, Sigmoid(d, v)), d, out + i);
  }
  if (i < size) {
    const size_t rest = static_cast<size_t>(size - i);
    const FloatVec v = LoadPartial(d, x + i, rest);
    StorePartial(hn::Mul(v, Sigmoid(d, v)), d, out + i, rest);
  }
}

void SiluGradSpan(const float* x, const float* dout, int64_t size, float* dx) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const FloatVec one = hn::Set(d, 1.0f);
  const auto slope = [&](FloatVec v) HWY_ATTR {
    const FloatVec s = Sigmoid(d, v);
    return hn::Mul(s, hn::MulAdd(v, hn::Sub(one, s), one));
  };
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, dout + i), slope(hn::LoadU(d, x + i))), d, dx + i);
  }
  if (i < size) {
    const size_t rest = static_cast<size_t>(size - i);
    const FloatVec dy = LoadPartial(d, dout + i, rest);
    StorePartial(hn::Mul(dy, slope(LoadPartial(d, x + i, rest))), d, dx + i, rest);
  }
}

double SumSquaresSpan(const float* x, int64_t size) {
  constexpr int64_t kChains = 16;
  double sums[kChains] = {};
  int64_t i = 0;
  for (; i + kChains <= size; i += kChains) {
    for (int64_t j = 0; j < kChains; ++j) {
      const double value = x[i + j];
      sums[j] += value * value;
    }
  }
  for (int64_t j = 0; i < size; ++i, ++j) sums[j] += static_cast<double>(x[i]) * x[i];
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(AddSpan);
HWY_EXPORT(ScaleSpan);
HWY_EXPORT(SiluSpan);
HWY_EXPORT(SiluGradSpan);
HWY_EXPORT(SumSquaresSpan);

void CpuOps::Add(const AddArgs& args) {
  ForEachSpan(std::array{args.x, args.out}, [](int64_t, const std::array<float*, 2>& p, int64_t size) {
    HWY_DYNAMIC_DISPATCH(AddSpan)(p[0], size, p[1]);
  });
}

void CpuOps::Scale(const ScaleArgs& args) {
  ForEachSpan(std::array{args.x}, [&](int64_t, const std::array<float*, 1>& p, int64_t size) {
    HWY_DYNAMIC_DISPATCH(ScaleSpan)(static_cast<float>(args.factor), size, p[0]);
  });
}

void CpuOps::Silu(const SiluArgs& args) {
  ForEachSpan(std::array{args.x, args.out}, [](int64_t, const std::array<float*, 2>& p, int64_t size) {
    HWY_DYNAMIC_DISPATCH(SiluSpan)(p[0], size, p[1]);
  });
}

void CpuOps::SiluGrad(const SiluGradArgs& args) {
  ForEachSpan(std::array{args.x, args.dout, args.dx},
              [](int64_t, const std::array<float*, 3>& p, int64_t size) {
                HWY_DYNAMIC_DISPATCH(SiluGradSpan)(p[0], p[1], size, p[2]);
              });
}

void CpuOps::SumSquares(const SumSquaresArgs& args) {
  const std::array views{args.x};
  std::vector<double> sums(static_cast<size_t>(CutSpans(views).num_spans));
  ForEachSpan(views, [&](int64_t span, const std::array<float*, 1>& p, int64_t size) {
    sums[static_cast<size_t>(span)] = HWY_DYNAMIC_DISPATCH(SumSquaresSpan)(p[0], size);
  });
  double sum = 0;
  for (const double part : sums) sum += part;
  *args.result = sum;
}

}  // namespace sluice
#endif  // HWY_ONCE
