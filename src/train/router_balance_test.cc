// Quantiles from histograms against exact ones, and where each rule moves the bias.
#include "train/router_balance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "base/random.h"
#include "tensor/host.h"

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

// Three of four tokens choose expert 0 first; each rule must move the bias against it.
TEST(RouterBalanceTest, MovesTheBiasAgainstABusyExpert) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  ModelConfig shape;
  shape.vocab_size = 8;
  shape.hidden_size = 8;
  shape.num_layers = 1;
  shape.num_heads = 1;
  shape.head_dim = 8;
  shape.moe = {3, 1, 8, 8};
  PassSaved saved;
  saved.moe.resize(1);
  std::vector<float> probs = {0.9f, 0.5f, 0.1f, 0.8f, 0.6f, 0.2f, 0.7f, 0.4f, 0.3f, 0.2f, 0.6f, 0.1f};
  std::vector<int32_t> choices = {0, 0, 0, 1};
  saved.moe[0].probs = TensorView::Of(probs.data(), {4, 3});
  saved.moe[0].choices = TensorView::Of(choices.data(), {4, 1});
  for (const BiasRule rule : {BiasRule::kQuantile, BiasRule::kSign}) {
    Model model(shape, *ops);
    const TensorView bias = model.table().Bind(model.parameters()).layers[0].router_bias;
    RouterConfig config;
    config.bias_rule = rule;
    config.bias_smoothing = 1;
    RouterBalance balance(model, config);
    balance.Count(saved);
    balance.Update();
    EXPECT_LT(LoadElement(bias, 0), LoadElement(bias, 1));
    if (rule == BiasRule::kSign) {
      EXPECT_FLOAT_EQ(LoadElement(bias, 0), -0.001);
      EXPECT_FLOAT_EQ(LoadElement(bias, 2), 0.001);
    }
  }
}

}  // namespace
}  // namespace sluice
