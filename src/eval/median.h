// The median of measured times.
#pragma once

#include <algorithm>
#include <vector>

namespace sluice {

// Of an even number of values the larger one in the middle. REQUIRES: there is one.
inline double Median(std::vector<double> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace sluice
