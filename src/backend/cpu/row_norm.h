// Norms of keys and queries for the bounds of guaranteed attention.
#pragma once

#include <cmath>
#include <cstdint>

namespace sluice {

// The Euclidean norm, in lanes so that it is not one chain of additions; infinite where squares overflow
// Real.
template <class Real>
inline float RowNorm(const float* x, const float* minus, int64_t n) {
  constexpr int64_t kLanes = 8;
  Real lanes[kLanes] = {};
  const auto square = [&](int64_t i) {
    const Real y =
        minus == nullptr ? static_cast<Real>(x[i]) : static_cast<Real>(x[i]) - static_cast<Real>(minus[i]);
    return y * y;
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += square(i + j);
  }
  for (; i < n; ++i) lanes[0] += square(i);
  return static_cast<float>(std::sqrt(((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
                                      ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))));
}

// NaN never wins: what is not a number shows in the logits themselves.
inline void RaiseTo(float candidate, float& largest) {
  if (candidate > largest) largest = candidate;
}

}  // namespace sluice
