// Selectors choose what they say, the oracle is never beaten, and the evaluation's figures are those of
// the passes it makes.
#include "eval/gating.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "engine/prompt.h"
#include "engine/testing.h"
#include "eval/attention_mass.h"
#include "eval/selectors.h"

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

// Keeps the attention inputs' selections of one position.
class SelectionOf : public PassObserver {
 public:
  explicit SelectionOf(int64_t position) : position_(position) {}
  void OnAttention(const AttentionStep& step) override {
    const AttentionInputs& in = step.inputs;
    const TensorView& candidates = step.candidates;
    const int64_t t = position_ - in.span.query_offset;
    if (t < 0 || t >= in.q.dim(0)) return;
    const int32_t* row = candidates.row<int32_t>(t);
    selections.emplace_back(row, row + candidates.dim(1));
    far.emplace_back(in.span.SinksEnd(t), in.span.WindowBegin(t));
    best.push_back(LargestMass(in, t, FarMass(step, t), candidates.dim(1)));
  }

  std::vector<std::vector<int32_t>> selections;  // By layer.
  std::vector<std::pair<int64_t, int64_t>> far;  // Begin and end of the far keys.
  std::vector<std::vector<int32_t>> best;        // The keys of largest mass.

 private:
  int64_t position_;
};

SelectionOf SelectionsWith(const std::string& selector, uint64_t seed = 1) {
  const auto engine = TinyEngine();
  Session session(*engine);
  const std::unique_ptr<Selector> chosen = MakeSelector(selector, seed);
  SelectionOf seen(150);
  session.Observe(&seen);
  session.SetAttention(AttentionMode::kSparse, chosen.get());
  session.Sync(testing::RandomTokens(180, 3));
  EXPECT_EQ(seen.selections.size(), static_cast<size_t>(engine->config().num_layers));
  return seen;
}

TEST(SelectorTest, ChooseFarKeysInOrderWithoutRepeats) {
  for (const std::string& name : SelectorNames()) {
    const SelectionOf seen = SelectionsWith(name);
    for (size_t layer = 0; layer < seen.selections.size(); ++layer) {
      const std::vector<int32_t>& keys = seen.selections[layer];
      EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end(), std::less_equal<>())) << name;
      EXPECT_GE(keys.front(), seen.far[layer].first) << name;
      EXPECT_LT(keys.back(), seen.far[layer].second) << name;
    }
  }
}

TEST(SelectorTest, RecentAndOracleAreWhatTheySay) {
  const SelectionOf recent = SelectionsWith("recent");
  for (size_t layer = 0; layer < recent.selections.size(); ++layer) {
    EXPECT_EQ(recent.selections[layer].back(), recent.far[layer].second - 1);
    EXPECT_EQ(recent.selections[layer].front(), recent.far[layer].second - 12);
  }
  const SelectionOf oracle = SelectionsWith("oracle");
  EXPECT_EQ(oracle.selections, oracle.best);
}

TEST(SelectorTest, ChooseAsManyKeysAsTheGate) {
  const auto engine = TinyEngine();
  SessionOptions options;
  options.gate_mass = 0.5;
  options.min_keys = 2;
  std::vector<size_t> wanted;
  for (const std::string& name : SelectorNames()) {
    Session session(*engine, options);
    const std::unique_ptr<Selector> chosen = MakeSelector(name, 1);
    SelectionOf seen(150);
    session.Observe(&seen);
    session.Sync(testing::RandomTokens(150, 3));  // Up to it with the gate: the same input for all.
    session.SetAttention(AttentionMode::kSparse, chosen.get());
    session.Append(7);
    ASSERT_EQ(seen.selections.size(), 3u);
    const std::vector<int32_t>& keys = seen.selections[0];
    const auto count =
        static_cast<size_t>(std::count_if(keys.begin(), keys.end(), [](int32_t s) { return s >= 0; }));
    wanted.push_back(count);
    EXPECT_EQ(count, wanted.front()) << name;
    EXPECT_GE(count, 2u);
    EXPECT_LT(count, 12u);
  }
}

TEST(SelectorTest, RandomIsAFunctionOfItsSeed) {
  const auto a = SelectionsWith("random").selections;
  EXPECT_EQ(a, SelectionsWith("random").selections);
  EXPECT_NE(a, SelectionsWith("random", 2).selections);
  EXPECT_NE(a[0], a[1]);
}

TEST(SelectorTest, UnknownNamesAreRefusedWithTheList) {
  try {
    MakeSelector("best", 1);
    FAIL();
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), HasSubstr("oracle"));
  }
}

class GatingTest : public ::testing::Test {
 protected:
  GatingTest() {
    options_.length = 200;
    options_.scored = 40;
    options_.queries = 5;
  }
  const GatingRow& Row(const GatingResult& result, const std::string& selector) {
    for (const GatingRow& row : result.rows) {
      if (row.selector == selector) return row;
    }
    throw InputError("no row {}", selector);
  }

  std::unique_ptr<Engine> engine_ = TinyEngine();
  std::vector<EvalDocument> texts_ = {
      {RandomText(1, 400), {}}, {"short", {}}, {RandomText(2, 400), {}}, {RandomText(3, 400), {}}};
  GatingOptions options_;
};

TEST_F(GatingTest, TheOracleIsNeverBeaten) {
  const GatingResult result = RunGating(*engine_, texts_, options_);
  EXPECT_EQ(result.documents, 3);
  ASSERT_EQ(result.rows.size(), 4u);
  const GateMassSummary& oracle = Row(result, "oracle").mass;
  EXPECT_EQ(oracle.num_samples, 3 * 5 * engine_->config().num_layers);
  EXPECT_EQ(oracle.recall, 1);
  EXPECT_NEAR(oracle.relative.mean, 1, 1e-9);
  for (const auto& distance : oracle.by_distance) EXPECT_EQ(distance.found, distance.wanted);
  for (const GatingRow& row : result.rows) {
    EXPECT_LE(row.mass.relative.mean, 1) << row.selector;
    EXPECT_LE(row.mass.retained.mean, oracle.retained.mean + 1e-9) << row.selector;
    EXPECT_LE(row.mass.relative.worst_layer, row.mass.relative.mean + 1e-9);
    EXPECT_LE(row.mass.relative.p5, row.mass.relative.mean + 1e-9);
    int64_t wanted = 0;
    for (const auto& distance : row.mass.by_distance) wanted += distance.wanted;
    EXPECT_EQ(row.mass.keys, engine_->config().top_k);
    EXPECT_EQ(wanted, row.mass.num_samples * engine_->config().top_k);
  }
  EXPECT_LT(Row(result, "random").mass.recall, 0.3);
}

TEST_F(GatingTest, FlatIsTheGateWithoutItsTree) {
  options_.length = 1500;
  options_.documents = 1;
  texts_ = {{RandomText(1, 3000), {}}};
  options_.selectors = {"gate", "flat"};
  options_.session.index = GateIndex::kTree;
  options_.session.tree_group = 256;
  options_.session.tree.beam = 1;
  options_.session.top_k = 2;
  const GatingResult result = RunGating(*engine_, texts_, options_);
  ASSERT_TRUE(result.GateOverFlat().has_value());
  EXPECT_NE(Row(result, "gate").nats, Row(result, "flat").nats);
  EXPECT_NEAR(*result.GateOverFlat(),
              Row(result, "gate").mass.retained.mean / Row(result, "flat").mass.retained.mean, 1e-12);
  EXPECT_THAT(GatingTable(result), HasSubstr("of what flat retains"));
  EXPECT_EQ(GatingJson(result)["gate_over_flat"], *result.GateOverFlat());

  // Without a tree there is nothing to lose.
  options_.session.index = GateIndex::kFlat;
  EXPECT_EQ(RunGating(*engine_, texts_, options_).GateOverFlat(), 1.0);
}

TEST_F(GatingTest, LossesAreThoseOfTheLastTokens) {
  options_.selectors = {"gate"};
  options_.documents = 1;
  const GatingResult result = RunGating(*engine_, texts_, options_);
  std::vector<int32_t> tokens = engine_->tokenizer().Encode(texts_[0].text);
  tokens.resize(200);
  for (const AttentionMode mode : {AttentionMode::kSparse, AttentionMode::kDense}) {
    Session session(*engine_);
    session.Sync(std::span(tokens).first(128));  // Two pages.
    session.SetAttention(mode);
    const std::vector<float> losses = session.AppendScored(std::span(tokens).subspan(128));
    const double nats = std::accumulate(losses.end() - 40, losses.end(), 0.0);
    EXPECT_NEAR(nats / 40, mode == AttentionMode::kDense ? result.dense.nats : result.rows[0].nats, 1e-6);
  }
}

TEST_F(GatingTest, ReportsHoldEveryRow) {
  const GatingResult result = RunGating(*engine_, texts_, options_);
  const std::string table = GatingTable(result);
  EXPECT_THAT(table, HasSubstr("recall@12"));
  const auto json = GatingJson(result);
  ASSERT_EQ(json["selectors"].size(), 4u);
  EXPECT_EQ(json["top_k"], 12);
  EXPECT_EQ(json["selectors"][3]["recall"], 1.0);
  EXPECT_EQ(json["selectors"][0]["relative_by_layer"].size(), 3u);
  EXPECT_EQ(json["selectors"][3]["relative"]["p5"], 1.0);
  EXPECT_NEAR(json["selectors"][0]["perplexity_over_dense"].get<double>(),
              result.PerplexityOverDense(result.rows[0]), 1e-12);
  EXPECT_FALSE(json["dense"].contains("questions"));
  const std::vector<LinePlot> plots = GatingPlots(result);
  ASSERT_EQ(plots.size(), 3u);
  for (const LinePlot& plot : plots) EXPECT_EQ(plot.series.size(), 4u);
  EXPECT_GT(json["selectors"][0]["by_distance"].size(), 0u);
}

TEST_F(GatingTest, QuestionsAreAskedBehindTheirDocuments) {
  EvalQuestion choice{"which cat", {"the cat sat", "on the old stone wall"}, 1, {}};
  EvalQuestion open{"what fell", {}, 0, {"rain", "stone"}};
  texts_ = {{RandomText(1, 50), choice}, {RandomText(2, 600), open}, {"short", open}};
  options_.selectors = {"gate"};
  const GatingResult result = RunGating(*engine_, texts_, options_);
  EXPECT_EQ(result.documents, 2);  // One shorter than --length, one longer.
  EXPECT_EQ(result.dense.answers.questions, 2);
  EXPECT_EQ(result.rows[0].answers.questions, 2);
  EXPECT_NE(result.rows[0].answers.nats, result.dense.answers.nats);

  // The first question's loss, by hand.
  texts_.resize(1);
  const GatingResult first = RunGating(*engine_, texts_, options_);
  const std::vector<int32_t> document = DocumentPrompt(engine_->tokenizer().Encode(texts_[0].text));
  const std::vector<int32_t> prompt =
      AskPrompt({document.begin() + 1, document.end()}, engine_->tokenizer(), choice.question);
  ASSERT_LT(document.size(), 200u);
  std::vector<double> means;
  double wanted = 0;
  for (const std::string& text : choice.choices) {
    Session session(*engine_);
    session.Sync(std::span(document).first((document.size() - 40) / 64 * 64));
    session.SetAttention(AttentionMode::kDense);
    session.Sync(prompt);
    const std::vector<int32_t> tokens = engine_->tokenizer().Encode(text);
    wanted = 0;
    for (const float loss : session.AppendScored(tokens)) wanted += loss;
    means.push_back(wanted / static_cast<double>(tokens.size()));
  }
  EXPECT_NEAR(first.dense.answers.nats, wanted, 1e-6 * wanted);
  EXPECT_EQ(first.dense.answers.right, means[1] < means[0] ? 1 : 0);
  EXPECT_THAT(GatingTable(first), HasSubstr("1 questions"));
  EXPECT_EQ(GatingJson(first)["selectors"][0]["questions"], 1);
}

TEST_F(GatingTest, WhatDoesNotFitIsRefused) {
  const auto expect_refused = [&](const std::string& part) {
    try {
      RunGating(*engine_, texts_, options_);
      ADD_FAILURE() << "nothing was refused; wanted: " << part;
    } catch (const InputError& error) {
      EXPECT_THAT(error.what(), HasSubstr(part));
    }
  };
  options_.length = 5000;
  expect_refused("the longest has");
  options_.length = 7000;
  expect_refused("--length");
  options_.length = 200;
  options_.scored = 200;
  expect_refused("--scored");
  options_.scored = 10;
  options_.length = 39;  // 24 of the window, 3 sinks, 12 selected.
  expect_refused("longer --length");
}

}  // namespace
}  // namespace sluice
