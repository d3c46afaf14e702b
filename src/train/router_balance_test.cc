// Quantiles from histograms against exact ones.
#include "train/router_balance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/random.h"

namespace sluice {
namespace {

TEST(HistogramQuantileTest, EqualsTheExactQuantileWithinABin) {
  constexpr int64_t kBins = 256;
  constexpr double kWidth = 4.0 / kBins;
  Random random(3);
  std::vector<double> values;
  std::vector<int32_t> counts(kBins);
  for (int i = 0; i < 5000; ++i) {
    values.push_back(std::clamp(0.5 * random.Normal(), -1.99, 1.99));
    ++counts[static_cast<size_t>((values.back() + 2) / kWidth)];
  }
  std::sort(values.begin(), values.end());
  for (const double quantile : {0.01, 0.25, 0.5, 0.75, 0.999}) {
    // The smallest value that at least this share of all values does not exceed.
    const auto rank = static_cast<size_t>(std::ceil(quantile * static_cast<double>(values.size())));
    const double exact = values[rank - 1];
    EXPECT_NEAR(HistogramQuantile(counts.data(), kBins, quantile), exact, kWidth) << quantile;
  }
}

TEST(HistogramQuantileTest, OneBinHoldsAll) {
  std::vector<int32_t> counts(16);
  counts[8] = 10;  // Values in [0, 0.25).
  EXPECT_DOUBLE_EQ(HistogramQuantile(counts.data(), 16, 0), 0);
  EXPECT_DOUBLE_EQ(HistogramQuantile(counts.data(), 16, 0.5), 0.125);
  EXPECT_DOUBLE_EQ(HistogramQuantile(counts.data(), 16, 1), 0.25);
}

TEST(HistogramQuantileTest, AnEmptyHistogramIsABug) {
  const std::vector<int32_t> counts(16);
  EXPECT_THROW(HistogramQuantile(counts.data(), 16, 0.5), Bug);
}

}  // namespace
}  // namespace sluice
