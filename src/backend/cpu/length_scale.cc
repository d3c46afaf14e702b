// Log-length scaling. The factor is taken in float64, once per token.
#include "ops/length_scale.h"

#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_ops.h"
#include "base/threads.h"

namespace sluice {

void CpuOps::LengthScale(const LengthScaleArgs& args) {
  constexpr int64_t kTokensPerTask = 256;
  const double base = std::log(static_cast<double>(args.length));
  const int32_t* position = args.positions.data<int32_t>();
  const int64_t size = args.x.dim(1);
  ParallelForRange(args.x.dim(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (position[t] < args.length) continue;
      const auto factor =
          static_cast<float>(std::max(1.0, std::log(static_cast<double>(position[t]) + 1) / base));
      float* row = args.x.row<float>(t);
      for (int64_t j = 0; j < size; ++j) row[j] *= factor;
    }
  });
}

}  // namespace sluice
