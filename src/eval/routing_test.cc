// The routing evaluation's figures are those of the passes it makes.
#include "eval/routing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "engine/testing.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing::TinyEngine;

std::string RandomText(uint64_t seed, int64_t words) {
  const char* const list[] = {"the ", "cat ", "sat ", "on ", "old ", "stone ", "wall ", "rain ", "fell.\n"};
  Random random(seed);
  std::string text;
  for (int64_t i = 0; i < words; ++i) text += list[random.Below(std::size(list))];
  return text;
}

class RoutingTest : public ::testing::Test {
 protected:
  RoutingTest() {
    options_.tokens = 500;
    options_.context = 128;
  }
  std::string Refusal() const {
    try {
      RunRouting(*engine_, texts_, options_);
    } catch (const InputError& error) {
      return error.what();
    }
    return "not refused";
  }

  std::unique_ptr<Engine> engine_ = TinyEngine();
  std::vector<RoutingText> texts_ = {{"first", {RandomText(1, 300), RandomText(2, 500)}},
                                     {"second", {"ZZZZ9999 ((((%%%% 0x7f7f7f 123456789 @@@@"}}};
  RoutingOptions options_;
};

TEST_F(RoutingTest, CountsEveryChoice) {
  const RoutingResult result = RunRouting(*engine_, texts_, options_);
  ASSERT_EQ(result.texts.size(), 2u);
  EXPECT_EQ(result.texts[0].tokens, 500);
  EXPECT_GE(result.texts[0].windows, 4);
  for (const TextRouting& text : result.texts) {
    for (int64_t layer = 0; layer < text.load.num_layers(); ++layer) {
      const auto counts = text.load.Layer(layer);
      EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}),
                text.tokens * engine_->config().moe.experts_per_token);
      const LayerRouting& figures = text.layers[static_cast<size_t>(layer)];
      EXPECT_GT(figures.entropy, 0.5);
      EXPECT_LE(figures.entropy, 1);
      EXPECT_GE(figures.rerouted, 0);
      EXPECT_LT(figures.rerouted + figures.unserved, 1);
    }
    EXPECT_GT(text.nats, 0);
  }
}

TEST_F(RoutingTest, CapacityLimitsTrainingAlone) {
  const auto rerouted = [&](double factor, double gamma_max) {
    options_.capacity_factor = factor;
    options_.capacity_gamma_max = gamma_max;
    return RunRouting(*engine_, texts_, options_).texts[0];
  };
  const TextRouting tight = rerouted(1, 1);
  const TextRouting loose = rerouted(1e6, 1e6);
  EXPECT_GT(tight.Mean().rerouted + tight.Mean().unserved, 0);
  EXPECT_EQ(loose.Mean().rerouted, 0);
  EXPECT_EQ(loose.Mean().unserved, 0);
  EXPECT_EQ(LoadOverlap(tight.load, loose.load), 1);
  EXPECT_EQ(tight.nats, loose.nats);
}

TEST_F(RoutingTest, EntropyIsThatOfTheRoutersOwnScores) {
  ModelConfig config = testing::TinyConfig();
  config.moe.router_scores = RouterScores::kSoftmax;
  const auto engine = TinyEngine(config);
  options_.capacity_factor = options_.capacity_gamma_max = 1e6;
  const RoutingResult softmax = RunRouting(*engine, texts_, options_);
  EXPECT_EQ(softmax.texts[0].Mean().rerouted, 0);
  EXPECT_NE(softmax.texts[0].Mean().entropy, RunRouting(*engine_, texts_, options_).texts[0].Mean().entropy);
}

TEST_F(RoutingTest, ChunksDoNotChangeTheFigures) {
  const TextRouting whole = RunRouting(*engine_, texts_, options_).texts[0];
  options_.session.chunk_tokens = 17;
  const TextRouting chunked = RunRouting(*engine_, texts_, options_).texts[0];
  EXPECT_EQ(chunked.nats, whole.nats);
  EXPECT_EQ(chunked.Mean().rerouted, whole.Mean().rerouted);
  EXPECT_EQ(chunked.Mean().unserved, whole.Mean().unserved);
  EXPECT_EQ(LoadOverlap(chunked.load, whole.load), 1);
}

TEST_F(RoutingTest, ATextSharesAllOfItsExpertsWithItself) {
  texts_.insert(texts_.begin() + 1, texts_[0]);
  const nlohmann::ordered_json json = RoutingJson(RunRouting(*engine_, texts_, options_));
  EXPECT_EQ(json["texts"][1]["overlap"], 1);
  EXPECT_EQ(json["texts"][1]["utilisation_change"], 0);
  EXPECT_LT(json["texts"][2]["overlap"], 1);
  EXPECT_GT(json["texts"][2]["overlap"], 0);
}

TEST_F(RoutingTest, OverlapAndMostUsedByHand) {
  ExpertLoad a(1, 4), b(1, 4);
  // 2, 2, 2 and 2 rows; 8, 4, 4 and 0.
  const std::vector<int32_t> rows_a = {0, 1, 2, 3, 3, 2, 1, 0};
  const std::vector<int32_t> rows_b = {0, 1, 0, 2, 0, 1, 0, 2, 0, 1, 0, 2, 0, 1, 0, 2};
  a.Count(0, TensorView::Of(rows_a.data(), {4, 2}));
  b.Count(0, TensorView::Of(rows_b.data(), {8, 2}));
  EXPECT_DOUBLE_EQ(LoadOverlap(a, b), 0.75);
  const std::vector<ExpertUse> most = MostUsed(b, 2);
  ASSERT_EQ(most.size(), 2u);
  EXPECT_EQ(most[0].expert, 0);
  EXPECT_DOUBLE_EQ(most[0].over_even, 2);
  EXPECT_EQ(most[1].expert, 1);
  EXPECT_DOUBLE_EQ(most[1].over_even, 1);
}

TEST_F(RoutingTest, ReportsHoldTheFigures) {
  const RoutingResult result = RunRouting(*engine_, texts_, options_);
  const nlohmann::ordered_json json = RoutingJson(result);
  for (const char* key : {"tokens", "context", "capacity_factor", "capacity_prior_tokens",
                          "capacity_gamma_max", "num_experts", "experts_per_token", "seconds", "texts"})
    EXPECT_TRUE(json.contains(key)) << key;
  for (const auto& text : json["texts"]) {
    for (const char* key :
         {"text", "tokens", "windows", "nats_per_token", "utilisation", "cv", "gini", "effective_experts",
          "min_to_mean", "rerouted", "unserved", "entropy", "worst_utilisation", "worst_layer", "layers",
          "load", "most_used", "overlap", "utilisation_change"})
      EXPECT_TRUE(text.contains(key)) << key;
    EXPECT_EQ(text["layers"].size(), 3u);
    EXPECT_EQ(text["load"].size(), 3u);
    EXPECT_EQ(text["load"][0].size(), 4u);
    EXPECT_EQ(text["most_used"].size(), 3u);
  }
  const std::string table = RoutingTable(result);
  EXPECT_THAT(table, HasSubstr("second"));
  EXPECT_THAT(table, HasSubstr("overlap"));
  const HeatMap map = RoutingPlot(result);
  ASSERT_EQ(map.values.size(), 6u);
  for (const std::vector<double>& row : map.values)
    EXPECT_NEAR(std::accumulate(row.begin(), row.end(), 0.0), 4, 0.03);
}

TEST_F(RoutingTest, WhatDoesNotFitIsRefused) {
  const RoutingOptions good = options_;
  options_.tokens = 0;
  EXPECT_THAT(Refusal(), HasSubstr("--tokens must be at least 2, not 0"));
  options_ = good;
  options_.context = 6001;
  EXPECT_THAT(Refusal(), HasSubstr("context of 6000 tokens, not 6001"));
  options_ = good;
  options_.capacity_factor = 0;
  EXPECT_THAT(Refusal(), HasSubstr("--capacity-factor"));
  options_ = good;
  texts_.push_back({"short", {"t"}});
  EXPECT_THAT(Refusal(), HasSubstr("short: no document of two tokens"));
}

TEST_F(RoutingTest, ContextIsTheModelsIfThatIsShorter) {
  ModelConfig config = testing::TinyConfig();
  config.context_length = 300;
  const auto engine = TinyEngine(config);
  options_.context.reset();
  EXPECT_EQ(RunRouting(*engine, texts_, options_).options.context, 300);
}

}  // namespace
}  // namespace sluice
