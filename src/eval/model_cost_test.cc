// Counted work against counting by hand; times only as far as any machine has them.
#include "eval/model_cost.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/testing.h"
#include "eval/random_cache.h"
#include "eval/shapes.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

void Ignore(int64_t, int64_t) {}

class ModelCostTest : public ::testing::Test {
 protected:
  ModelCostTest() {
    options_.depths = {300, 0};
    options_.prefill_tokens = 20;
    options_.decode_tokens = 3;
    options_.repeats = 2;
  }
  std::vector<ModelCostRow> Measure(WeightFormat format = WeightFormat::kFloat) {
    const auto model = RandomModel(config_, format, 1, *ops_, Ignore);
    return MeasureModel(*model, options_, peaks_);
  }
  // Elements that a decoded token passes through, matrices and routers alone.
  static double ActiveElements() {
    const double attention = 32 * (32 + 8 + 8) + 32 * 32;
    const double expert = 3 * 16 * 32;
    const double gates = 2 * (16 * 32 + 16 * (16 + 8 + 2));
    return 3 * (attention + 4 * 32 + (2 + 1) * expert) + gates + 300 * 32;
  }

  ModelConfig config_ = testing::TinyConfig();
  std::unique_ptr<Ops> ops_ = MakeOps("cpu");
  ModelCostOptions options_;
  PeakMeter peaks_;
};

TEST_F(ModelCostTest, StepsComeByDepthWithTheWorkOfOnePass) {
  config_.gate.bias = false;
  options_.attention = AttentionMode::kDense;
  const std::vector<ModelCostRow> rows = Measure();
  std::vector<std::string> names;
  for (const ModelCostRow& row : rows) {
    names.push_back(fmt::format("{} {} {}", row.step, row.depth, row.tokens));
    EXPECT_GT(row.seconds, 0);
  }
  EXPECT_THAT(names, ElementsAre("decode 0 1", "prefill 0 20", "decode 300 1", "prefill 300 20"));
  // Three layers, a key and a value of one head of 8 each; four heads multiply and add both.
  EXPECT_EQ(rows[2].work.cache_bytes, 3 * 301 * 2 * 8 * 2);
  EXPECT_EQ(rows[2].work.int8_ops, 0);
  EXPECT_EQ(rows[2].work.float_ops, 2 * ActiveElements() + 3 * 301 * 4 * 4 * 8);
  // All but half of the experts, and the vectors.
  EXPECT_GT(rows[2].work.weight_bytes, 4 * ActiveElements());
  EXPECT_LT(rows[2].work.weight_bytes, 4 * ActiveElements() + 4 * 4000);
  // Keys are read once, however many tokens there are; every token attends.
  EXPECT_EQ(rows[3].work.cache_bytes, 3 * 320 * 2 * 8 * 2);
  const double head = 300 * 32;
  const double pairs = 20 * 300 + 20 * 21 / 2;
  EXPECT_EQ(rows[3].work.float_ops, 2 * (20 * (ActiveElements() - head) + head) + 3 * pairs * 4 * 4 * 8);
}

TEST_F(ModelCostTest, TheGateReadsLess) {
  options_.depths = {2048};
  options_.top_k = 5;
  const std::vector<ModelCostRow> rows = Measure();
  // Window and sinks, and what was selected; two gates scan the rest, of eight codes and a scale.
  const double attended = 24 + 3 + 5, scanned = 2049 - 24 - 3;
  EXPECT_EQ(rows[0].work.cache_bytes, 3 * attended * 2 * 8 * 2 + 2 * scanned * 10);
  EXPECT_EQ(rows[0].work.int8_ops, 2 * scanned * 2 * 2 * 8);
}

TEST_F(ModelCostTest, EightBitWeightsAreCountedAsSuch) {
  const std::vector<ModelCostRow> floats = Measure();
  const std::vector<ModelCostRow> quantized = Measure(WeightFormat::kQ8);
  EXPECT_LT(quantized[0].work.weight_bytes, 0.6 * floats[0].work.weight_bytes);
  EXPECT_GT(quantized[0].work.int8_ops, 0);
  EXPECT_EQ(quantized[0].work.ops(), floats[0].work.ops());
}

TEST_F(ModelCostTest, IsReportedForPeopleProgramsAndTheEye) {
  ModelCostReport report;
  report.model = "tiny";
  report.weights = "float";
  report.options = options_;
  report.rows = Measure();
  report.peaks = peaks_.peaks();
  EXPECT_THAT(ModelCostTable(report), HasSubstr("prefill 20    300"));
  const nlohmann::ordered_json json = ModelCostJson(report);
  EXPECT_EQ(json["attention"], "sparse");
  EXPECT_EQ(json["rows"].size(), 4u);
  EXPECT_GT(json["rows"][3]["share_of_compute"], 0);
  EXPECT_GT(json["peaks"]["int8_ops_per_second"], 0);
  const std::vector<LinePlot> plots = ModelCostPlots(report);
  ASSERT_EQ(plots.size(), 2u);
  EXPECT_EQ(plots[0].series.size(), 5u);
  EXPECT_EQ(plots[1].series[0].x, std::vector<double>{300});
}

TEST_F(ModelCostTest, WhatCannotBeMeasuredIsRefused) {
  const auto model = RandomModel(config_, WeightFormat::kFloat, 1, *ops_, Ignore);
  const auto refused = [&](const std::function<void(ModelCostOptions&)>& change) {
    ModelCostOptions options = options_;
    change(options);
    EXPECT_THROW(MeasureModel(*model, options, peaks_), InputError);
  };
  refused([](ModelCostOptions& options) { options.depths = {}; });
  refused([](ModelCostOptions& options) { options.depths = {-1}; });
  refused([](ModelCostOptions& options) { options.depths = {5990}; });
  refused([](ModelCostOptions& options) { options.prefill_tokens = 5000; });
  refused([](ModelCostOptions& options) { options.decode_tokens = -1; });
  refused([](ModelCostOptions& options) { options.prefill_tokens = options.decode_tokens = 0; });
  refused([](ModelCostOptions& options) { options.repeats = 0; });
}

TEST(ShapesTest, HaveTheSizesThatTheyAreKnownFor) {
  const ModelConfig m = ReadShape("m");
  EXPECT_NO_THROW(m.Validate("m"));
  const WeightsTable table(m);
  // Experts, attention, vocabulary; and a percent of the rest.
  const int64_t main = 12 * (16 * 3 * 1024 * 768 + 768 * (768 + 256 + 256 + 768)) + 32000 * 768;
  EXPECT_GT(table.num_elements(), main);
  EXPECT_LT(table.num_elements(), main + main / 100);
  EXPECT_EQ(ReadShape("m-g1").num_kv_heads, 1);
  EXPECT_THROW(ReadShape("nothing"), InputError);
}

TEST(ShapesTest, RandomWeightsAreAFunctionOfTheSeed) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const auto weights = [&](uint64_t seed) {
    const auto model = RandomModel(testing::TinyConfig(), WeightFormat::kFloat, seed, *ops, Ignore);
    const float* values = model->parameters().data<float>();
    return std::vector<float>(values, values + model->parameters().num_elements());
  };
  EXPECT_EQ(weights(1), weights(1));
  EXPECT_NE(weights(1), weights(2));
}

TEST(RandomCacheTest, IsOneThatAModelCanGoOnWith) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const auto model = RandomModel(testing::TinyConfig(), WeightFormat::kFloat, 1, *ops, Ignore);
  KvCache cache(*ops, model->CacheShape(), 5000);
  FillCache(model->config(), *ops, 4500, 1, cache);
  EXPECT_EQ(cache.num_tokens(), 4500);
  cache.CheckIntegrity();
  EXPECT_EQ(cache.Truncate(128), 128);
  FillCache(model->config(), *ops, 200, 1, cache);
  PassMemory memory;
  const Buffer logits(DType::kF32, {1, 300});
  const std::vector<int32_t> tokens = testing::RandomTokens(10, 1);
  const PassOptions options;
  const TimelinePart part{TensorView::Of(tokens.data(), {10}), &options, &cache, nullptr, 1};
  model->Extend(memory, {&part, 1}, logits);
  cache.CheckIntegrity();
  for (int64_t i = 0; i < 300; ++i) ASSERT_TRUE(std::isfinite(logits.view().data<float>()[i])) << i;
}

TEST(MachinePeaksTest, AreMeasuredAndNeverFall) {
  PeakMeter meter;
  meter.Sample();
  const MachinePeaks first = meter.peaks();
  for (const double peak : {first.read_bytes, first.float_ops, first.bfloat16_ops, first.int8_ops}) {
    EXPECT_GT(peak, 1e8);
  }
  meter.Sample();
  EXPECT_GE(meter.peaks().read_bytes, first.read_bytes);
  EXPECT_GE(meter.peaks().int8_ops, first.int8_ops);
  EXPECT_THAT(FormatPeaks(first), HasSubstr("GFLOP/s"));
}

}  // namespace
}  // namespace sluice
