// The sampling rule, seen from its definition: shares of a sweep over `uniform`, the two cuts, ties.
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <vector>

#include "backend/reference/reference_ops.h"
#include "base/error.h"

namespace sluice {
namespace {

int32_t Draw(std::vector<double> logits, SampleArgs args) {
  int32_t token = -1;
  args.logits = TensorView::Of(logits.data(), {static_cast<int64_t>(logits.size())});
  args.token = &token;
  ReferenceOps<double>().Sample(args);
  return token;
}

// Shares of each token over an even sweep of `uniform`.
std::map<int32_t, double> Shares(const std::vector<double>& logits, SampleArgs args) {
  const int n = 10000;
  std::map<int32_t, double> shares;
  for (int i = 0; i < n; ++i) {
    args.uniform = (i + 0.5) / n;
    shares[Draw(logits, args)] += 1.0 / n;
  }
  return shares;
}

const double kInfinity = std::numeric_limits<double>::infinity();

TEST(Sampling, GreedyTakesTheLowerOfTies) {
  EXPECT_EQ(Draw({1, 3, 3, 2}, {}), 1);
  EXPECT_EQ(Draw({-kInfinity, -5}, {}), 1);
}

TEST(Sampling, SharesAreTheSoftmax) {
  const auto shares =
      Shares({std::log(0.5), std::log(0.2), std::log(0.3), -kInfinity}, {.logits = {}, .temperature = 1});
  EXPECT_NEAR(shares.at(0), 0.5, 2e-4);
  EXPECT_NEAR(shares.at(1), 0.2, 2e-4);
  EXPECT_NEAR(shares.at(2), 0.3, 2e-4);
  EXPECT_EQ(shares.count(3), 0u);
}

TEST(Sampling, CutsRenormalise) {
  const std::vector<double> logits = {std::log(0.5), std::log(0.2), std::log(0.3)};
  EXPECT_NEAR(Shares(logits, {.logits = {}, .temperature = 1, .top_k = 2}).at(2), 0.375, 2e-4);
  EXPECT_NEAR(Shares(logits, {.logits = {}, .temperature = 1, .top_p = 0.7}).at(2), 0.375, 2e-4);
  EXPECT_EQ(Shares(logits, {.logits = {}, .temperature = 1, .top_p = 0.4}).size(), 1u);
  EXPECT_EQ(Shares(logits, {.logits = {}, .temperature = 1, .top_p = 0}).size(), 1u);
}

TEST(Sampling, MinPCutsBelowItsShareOfTheLargest) {
  const std::vector<double> logits = {std::log(0.5), std::log(0.2), std::log(0.3)};
  const auto shares = Shares(logits, {.logits = {}, .temperature = 1, .min_p = 0.5});
  EXPECT_NEAR(shares.at(0), 0.625, 2e-4);
  EXPECT_NEAR(shares.at(2), 0.375, 2e-4);
  EXPECT_EQ(shares.size(), 2u);
  // Half the temperature squares every p.
  EXPECT_EQ(Shares(logits, {.logits = {}, .temperature = 0.5, .min_p = 0.5}).size(), 1u);
}

TEST(Sampling, NaNIsAnInputError) {
  EXPECT_THROW(Draw({1, std::nan(""), 2}, {}), InputError);
}

}  // namespace
}  // namespace sluice
