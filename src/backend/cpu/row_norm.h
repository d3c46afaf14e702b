// Norms for the bounds of guaranteed attention.
#pragma once

#include <cmath>
#include <cstdint>

namespace sluice {

// The Euclidean norm, in lanes so that it is not one chain of additions; infinite where squares overflow.
inline float RowNorm(const float* x, int64_t n) {
  constexpr int64_t kLanes = 8;
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += x[i + j] * x[i + j];
  }
  for (; i < n; ++i) lanes[0] += x[i] * x[i];
  return std::sqrt(((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
                   ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7])));
}

// NaN never wins: what is not a number shows in the logits themselves.
inline void RaiseTo(float candidate, float& largest) {
  if (candidate > largest) largest = candidate;
}

}  // namespace sluice
