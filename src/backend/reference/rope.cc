// Rotary position embedding; formulas in ops/rope.h.
#include <cmath>
#include <numbers>

#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"

namespace sluice {
namespace {

// Rotates every head of `x` by `sign` times its position's angles. A float backend may round the
// reduced angle, so the magnitude of a sine or cosine is 1.
template <class Real>
void Rotate(const TensorView& x, const TensorView& positions, double theta, double sign,
            const TensorView& out) {
  const int64_t heads = x.dim(1), head_size = x.dim(2), half = head_size / 2;
  for (int64_t t = 0; t < x.dim(0); ++t) {
    const double position = positions.data<int32_t>()[t];
    for (int64_t j = 0; j < half; ++j) {
      const double frequency =
          std::pow(theta, -2.0 * static_cast<double>(j) / static_cast<double>(head_size));
      const double angle = sign * std::remainder(position * frequency, 2 * std::numbers::pi);
      const Real cosine = WithMagnitude<Real>(std::cos(angle), 1);
      const Real sine = WithMagnitude<Real>(std::sin(angle), 1);
      for (int64_t h = 0; h < heads; ++h) {
        const Real* from = x.row<Real>(t) + h * head_size;
        Real* to = out.row<Real>(t) + h * head_size;
        to[j] = from[j] * cosine - from[j + half] * sine;
        to[j + half] = from[j + half] * cosine + from[j] * sine;
      }
    }
  }
}

}  // namespace

template <class Real>
void ReferenceOps<Real>::Rope(const RopeArgs& args) {
  Rotate<Real>(args.x, args.positions, args.theta, 1, args.out);
}

template <class Real>
void ReferenceOps<Real>::RopeGrad(const RopeGradArgs& args) {
  Rotate<Real>(args.dout, args.positions, args.theta, -1, args.dx);
}

template void ReferenceOps<double>::Rope(const RopeArgs&);
template void ReferenceOps<Tracked>::Rope(const RopeArgs&);
template void ReferenceOps<double>::RopeGrad(const RopeGradArgs&);
template void ReferenceOps<Tracked>::RopeGrad(const RopeGradArgs&);

}  // namespace sluice
