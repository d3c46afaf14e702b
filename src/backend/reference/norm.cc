// RMSNorm; formulas in ops/norm.h.
#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"

namespace sluice {
namespace {

// 1 / sqrt(mean x² + eps)
template <class Real>
Real InverseRms(const Real* x, int64_t size, double eps) {
  return 1.0 / Sqrt(reference::Dot(x, x, size) / static_cast<double>(size) + eps);
}

}  // namespace

template <class Real>
void ReferenceOps<Real>::RmsNorm(const RmsNormArgs& args) {
  const int64_t size = args.x.dim(1);
  const Real* weight = args.weight.data<Real>();
  for (int64_t r = 0; r < args.x.dim(0); ++r) {
    const Real* x = args.x.row<Real>(r);
    const Real inverse = InverseRms(x, size, args.eps);
    for (int64_t j = 0; j < size; ++j) args.out.row<Real>(r)[j] = x[j] * inverse * weight[j];
  }
}

// With n = x · inverse and g = dout · weight: dx = inverse · (g − n · mean(g n)).
template <class Real>
void ReferenceOps<Real>::RmsNormGrad(const RmsNormGradArgs& args) {
  const int64_t size = args.x.dim(1);
  const Real* weight = args.weight.data<Real>();
  for (int64_t r = 0; r < args.x.dim(0); ++r) {
    const Real* x = args.x.row<Real>(r);
    const Real* dout = args.dout.row<Real>(r);
    const Real inverse = InverseRms(x, size, args.eps);
    Real mean{};
    for (int64_t j = 0; j < size; ++j) mean += dout[j] * weight[j] * (x[j] * inverse);
    mean = mean / static_cast<double>(size);
    for (int64_t j = 0; j < size; ++j) {
      args.dweight_acc.data<Real>()[j] += dout[j] * (x[j] * inverse);
      args.dx.row<Real>(r)[j] = inverse * (dout[j] * weight[j] - x[j] * inverse * mean);
    }
  }
}

template void ReferenceOps<double>::RmsNorm(const RmsNormArgs&);
template void ReferenceOps<Tracked>::RmsNorm(const RmsNormArgs&);
template void ReferenceOps<double>::RmsNormGrad(const RmsNormGradArgs&);
template void ReferenceOps<Tracked>::RmsNormGrad(const RmsNormGradArgs&);

}  // namespace sluice
