// RMSNorm and its gradient. With r = 1 / sqrt(mean x² + eps) and n values in a row:
//   dx = r (dout · weight − x r² Σ(dout · weight · x) / n),  dweight += Σ_rows dout · x · r
// dweight is summed per block of kRowsPerTask rows; the blocks are added in order.
#include "ops/norm.h"

#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/scratch.h"
#include "base/threads.h"

// The order of these matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/norm.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// Calls body(j, count) for each vector of a row of `size`; count < lanes only for the last.
template <class Body>
HWY_INLINE void ForEachVector(int64_t size, const Body& body) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  int64_t j = 0;
  for (; j + lanes <= size; j += lanes) body(j, lanes);
  if (j < size) body(j, size - j);
}

HWY_INLINE FloatVec LoadUpTo(const float* p, int64_t count) {
  const FloatTag d;
  return count == static_cast<int64_t>(hn::Lanes(d)) ? hn::LoadU(d, p)
                                                     : LoadPartial(d, p, static_cast<size_t>(count));
}

HWY_INLINE void StoreUpTo(FloatVec v, float* p, int64_t count) {
  const FloatTag d;
  if (count == static_cast<int64_t>(hn::Lanes(d))) {
    hn::StoreU(v, d, p);
  } else {
    StorePartial(v, d, p, static_cast<size_t>(count));
  }
}

// 1 / sqrt(mean x² + eps) of one row. Two chains, so that long rows do not wait on one.
HWY_INLINE float InverseRms(const float* x, int64_t size, double eps) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  FloatVec even = hn::Zero(d);
  FloatVec odd = hn::Zero(d);
  int64_t j = 0;
  for (; j + 2 * lanes <= size; j += 2 * lanes) {
    const FloatVec a = hn::LoadU(d, x + j);
    const FloatVec b = hn::LoadU(d, x + j + lanes);
    even = hn::MulAdd(a, a, even);
    odd = hn::MulAdd(b, b, odd);
  }
  for (; j < size; j += lanes) {
    const FloatVec a = LoadUpTo(x + j, std::min(lanes, size - j));
    even = hn::MulAdd(a, a, even);
  }
  const double sum = HorizontalSum(d, hn::Add(even, odd));
  return static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(size) + eps));
}

void NormRows(const RmsNormArgs& args, int64_t begin, int64_t end) {
  const FloatTag d;
  const int64_t size = args.weight.dim(0);
  const float* weight = args.weight.data<float>();
  const float* x = args.x.row<float>(begin);
  float* out = args.out.row<float>(begin);
  for (int64_t r = begin; r < end; ++r, x += args.x.row_stride(), out += args.out.row_stride()) {
    const FloatVec scale = hn::Set(d, InverseRms(x, size, args.eps));
    ForEachVector(size, [&](int64_t j, int64_t count) HWY_ATTR {
      const FloatVec v = hn::Mul(LoadUpTo(x + j, count), scale);
      StoreUpTo(hn::Mul(v, LoadUpTo(weight + j, count)), out + j, count);
    });
  }
}

// `dweight` [size] takes these rows' sum; it is added to.
void NormGradRows(const RmsNormGradArgs& args, int64_t begin, int64_t end, float* dweight) {
  const FloatTag d;
  const int64_t size = args.weight.dim(0);
  const float* weight = args.weight.data<float>();
  const float* x = args.x.row<float>(begin);
  const float* dout = args.dout.row<float>(begin);
  float* dx = args.dx.row<float>(begin);
  for (int64_t r = begin; r < end; ++r) {
    const float inverse = InverseRms(x, size, args.eps);
    const FloatVec scale = hn::Set(d, inverse);
    FloatVec sum = hn::Zero(d);
    ForEachVector(size, [&](int64_t j, int64_t count) HWY_ATTR {
      const FloatVec v = LoadUpTo(x + j, count);
      const FloatVec dy = LoadUpTo(dout + j, count);
      sum = hn::MulAdd(hn::Mul(dy, LoadUpTo(weight + j, count)), v, sum);
      StoreUpTo(hn::MulAdd(dy, hn::Mul(v, scale), LoadUpTo(dweight + j, count)), dweight + j, count);
    });
    const double cubed = static_cast<double>(inverse) * inverse * inverse;
    const float mean = static_cast<float>(HorizontalSum(d, sum) * cubed / static_cast<double>(size));
    const FloatVec pull = hn::Set(d, mean);
    ForEachVector(size, [&](int64_t j, int64_t count) HWY_ATTR {
      const FloatVec own = hn::Mul(hn::Mul(LoadUpTo(dout + j, count), LoadUpTo(weight + j, count)), scale);
      StoreUpTo(hn::NegMulAdd(LoadUpTo(x + j, count), pull, own), dx + j, count);
    });
    x += args.x.row_stride();
    dout += args.dout.row_stride();
    dx += args.dx.row_stride();
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(NormRows);
HWY_EXPORT(NormGradRows);

namespace {
constexpr int64_t kRowsPerTask = 256;
struct WeightSums;
}  // namespace

void CpuOps::RmsNorm(const RmsNormArgs& args) {
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, args.weight.dim(0)));
  ParallelForRange(args.x.dim(0), grain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(NormRows)(args, begin, end);
  });
}

void CpuOps::RmsNormGrad(const RmsNormGradArgs& args) {
  const int64_t size = args.weight.dim(0);
  const int64_t num_blocks = (args.x.dim(0) + kRowsPerTask - 1) / kRowsPerTask;
  float* sums = ThreadScratch<WeightSums>(num_blocks * size);
  ParallelFor(num_blocks, [&](int64_t block) {
    const int64_t begin = block * kRowsPerTask;
    std::fill_n(sums + block * size, size, 0.0f);
    HWY_DYNAMIC_DISPATCH(NormGradRows)
    (args, begin, std::min(begin + kRowsPerTask, args.x.dim(0)), sums + block * size);
  });
  float* dweight = args.dweight_acc.data<float>();
  for (int64_t block = 0; block < num_blocks; ++block) {
    for (int64_t j = 0; j < size; ++j) dweight[j] += sums[block * size + j];
  }
}

}  // namespace sluice
#endif  // HWY_ONCE
