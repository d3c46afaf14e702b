// Log-length scaling; formula in ops/length_scale.h.
#include <algorithm>
#include <cmath>

#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"

namespace sluice {

template <class Real>
void ReferenceOps<Real>::LengthScale(const LengthScaleArgs& args) {
  const double base = std::log(static_cast<double>(args.length));
  for (int64_t t = 0; t < args.x.dim(0); ++t) {
    const double num_keys = static_cast<double>(args.positions.data<int32_t>()[t]) + 1;
    const double factor = std::max(1.0, std::log(num_keys) / base);
    Real* row = args.x.row<Real>(t);
    // A float backend rounds the factor.
    for (int64_t j = 0; j < args.x.dim(1); ++j) row[j] = row[j] * WithMagnitude<Real>(factor, factor);
  }
}

template void ReferenceOps<double>::LengthScale(const LengthScaleArgs&);
template void ReferenceOps<Tracked>::LengthScale(const LengthScaleArgs&);

}  // namespace sluice
