#include "model/weights.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tensor/host.h"

namespace sluice {
namespace {

ModelConfig WideConvConfig() {
  ModelConfig config;
  config.vocab_size = 32;
  config.hidden_size = 512;
  config.num_layers = 1;
  config.embedding_conv_width = 8;
  return config;
}

TEST(WeightsTest, OlderTokensStartQuieterInTheEmbeddingConvolution) {
  const WeightsTable table(WideConvConfig());
  Buffer buffer(DType::kF32, {table.num_elements()});
  table.Initialize(buffer, /*seed=*/1);
  const TensorView conv = table.Bind(buffer).embedding_conv;
  const int64_t channels = conv.dim(0);
  const int64_t width = conv.dim(1);
  std::vector<double> power(static_cast<size_t>(width), 0.0);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t j = 0; j < width; ++j) power[static_cast<size_t>(j)] += std::pow(conv.row<float>(c)[j], 2);
  }
  const double newest = power.back();
  const double oldest = power.front();
  EXPECT_GT(newest, 0);
  // Seven steps of the decay, squared; 512 samples a column leave some 9% of noise in the ratio.
  const double expected = std::pow(0.8, 2 * (width - 1));
  EXPECT_NEAR(oldest / newest, expected, 0.4 * expected);
}

TEST(WeightsTest, StartingValuesAreAFunctionOfTheSeed) {
  const WeightsTable table(WideConvConfig());
  Buffer first(DType::kF32, {table.num_elements()});
  Buffer again(DType::kF32, {table.num_elements()});
  Buffer other(DType::kF32, {table.num_elements()});
  table.Initialize(first, 1);
  table.Initialize(again, 1);
  table.Initialize(other, 2);
  int64_t differing = 0;
  for (int64_t i = 0; i < table.num_elements(); ++i) {
    ASSERT_EQ(LoadElement(first, i), LoadElement(again, i)) << i;
    differing += LoadElement(first, i) != LoadElement(other, i) ? 1 : 0;
  }
  EXPECT_GT(differing, table.num_elements() / 2);
}

}  // namespace
}  // namespace sluice
