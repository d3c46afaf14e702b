// Figures against counting by hand, needles where they should be, perplexity against the definition.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "engine/testing.h"
#include "eval/gate_mass.h"
#include "eval/memory.h"
#include "eval/needle.h"
#include "eval/pass_figures.h"
#include "eval/perplexity.h"
#include "eval/plot.h"
#include "eval/table.h"
#include "model/flops.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing::RandomTokens;
using testing::TinyEngine;

TEST(TableTest, AlignsColumnsByCharacters) {
  Table table({"name", "n"});
  table.AddRow({"é", "1"});
  table.AddRow({"long name", "1,000"});
  EXPECT_EQ(table.ToString(),
            "name           n\n"
            "----------------\n"
            "é              1\n"
            "long name  1,000\n");
  EXPECT_THROW(table.AddRow({"one cell"}), Bug);
}

TEST(TableTest, Numbers) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(131072), "131,072");
  EXPECT_EQ(FormatCount(-1234567), "-1,234,567");
  EXPECT_EQ(FormatFlops(1.5e12), "1.50 TFLOP");
  EXPECT_EQ(FormatShare(0.9751), "97.5%");
}

TEST(MemoryTest, PeakIsPlausible) {
  EXPECT_GT(PeakMemoryBytes(), 1e6);
}

TEST(PassFiguresTest, CountsWhatTheModelDoes) {
  const auto engine = TinyEngine();
  const ModelConfig& config = engine->config();
  for (const AttentionMode mode : {AttentionMode::kSparse, AttentionMode::kDense}) {
    SessionOptions options;
    options.attention = mode;
    options.chunk_tokens = 33;
    Session session(*engine, options);
    PassFigures figures(config);
    session.Observe(&figures);
    constexpr int64_t kTokens = 150;
    session.Sync(RandomTokens(kTokens, 1));
    double attended = 0, full = 0, scanned = 0;
    for (int64_t p = 0; p < kTokens; ++p) {
      const int64_t window = std::min(p + 1, config.window);
      const int64_t sinks = std::min(config.num_sinks, p + 1 - window);
      const int64_t far = p + 1 - window - sinks;
      full += static_cast<double>(p + 1);
      scanned += static_cast<double>(far);
      attended += static_cast<double>(window + sinks + std::min(far, config.top_k));
    }
    const bool sparse = mode == AttentionMode::kSparse;
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
      const LayerFigures& counted = figures.layers()[static_cast<size_t>(layer)];
      EXPECT_EQ(counted.tokens, kTokens);
      EXPECT_EQ(counted.full_keys, full);
      EXPECT_EQ(counted.attended_keys, sparse ? attended : full);
      EXPECT_EQ(counted.selected_keys, sparse ? attended - (full - scanned) : 0);
      EXPECT_EQ(counted.scanned_keys, sparse && config.HasGate(layer) ? scanned : 0);
    }
    const AttentionCost cost = figures.Cost();
    EXPECT_EQ(cost.full_flops, 3 * full * 4 * 4 * 8);
    EXPECT_EQ(cost.gate_scan_flops, sparse ? 2 * scanned * 2 * 2 * 8 : 0);
  }
}

// One query at position 40 over unit keys: with q = 0 all keys weigh the same.
class GateMassTest : public ::testing::Test {
 protected:
  static constexpr int64_t kKeys = 41, kHeads = 2, kSize = 4;
  GateMassTest() {
    in_.q = TensorView::Of(q_.data(), {1, kHeads, kSize});
    in_.q_rot = TensorView::Of(q_rot_.data(), {1, kHeads, kSize});
    in_.k_rot = TensorView::Of(k_.data(), {kKeys, 1, kSize});
    in_.k = in_.k_rot;
    in_.v = in_.k_rot;
    in_.sink_logit = TensorView::Of(sink_.data(), {kHeads});
    in_.span.query_offset = kKeys - 1;
    in_.span.window = 8;
    in_.span.num_sinks = 2;
    candidates_ = {10, 20, 30, -1};
  }
  AttentionStep Step(const TensorView& candidates, int64_t layer = 0) const {
    AttentionStep step;
    step.layer = layer;
    step.inputs = in_;
    step.candidates = candidates;
    return step;
  }
  GateMassSummary Sample() {
    GateMass mass({kKeys - 1});
    mass.OnAttention(Step(TensorView::Of(candidates_.data(), {1, 4})));
    EXPECT_EQ(mass.samples().size(), 1u);
    EXPECT_EQ(mass.samples().at(0).position, 40);
    EXPECT_EQ(mass.samples().at(0).keys, 3);
    return mass.Summary();
  }

  std::vector<float> q_ = std::vector<float>(kHeads * kSize, 0.0f);
  std::vector<float> q_rot_ = std::vector<float>(kHeads * kSize, 0.0f);
  std::vector<float> k_ = std::vector<float>(kKeys * kSize, 0.0f);
  std::vector<float> sink_ = std::vector<float>(kHeads, 0.0f);
  std::vector<int32_t> candidates_;
  AttentionInputs in_;
};

TEST_F(GateMassTest, UniformAttention) {
  const GateMassSummary summary = Sample();
  EXPECT_NEAR(summary.retained.mean, 3.0 / 31, 1e-6);  // 41 keys − 8 of the window − 2 sinks.
  EXPECT_NEAR(summary.far, 31.0 / 42, 1e-6);           // exp(0) more for the sink logit.
  EXPECT_NEAR(summary.relative.mean, 1, 1e-6);
  // Far keys 2 to 32 are 8 to 38 tokens away, the selected ones 10, 20 and 30.
  EXPECT_NEAR(summary.by_distance[3].retained.mean, 1.0 / 8, 1e-6);
  EXPECT_NEAR(summary.by_distance[4].retained.mean, 2.0 / 16, 1e-6);
  EXPECT_EQ(summary.by_distance[5].retained.mean, 0);
  // The oracle's: of equal mass the lowest positions, 36 to 38 tokens away.
  EXPECT_EQ(summary.by_distance[5].wanted, 3);
  EXPECT_EQ(summary.by_distance[5].relative.mean, 0);
  EXPECT_EQ(summary.by_distance[3].wanted, 0);
}

TEST_F(GateMassTest, OneKeyThatMatters) {
  q_[0] = q_[kSize] = 20;
  k_[20 * kSize] = 2;
  EXPECT_NEAR(Sample().retained.mean, 1, 1e-6);
  k_[20 * kSize] = 0;
  k_[21 * kSize] = 2;
  const GateMassSummary missed = Sample();
  EXPECT_LT(missed.retained.mean, 1e-6);
  EXPECT_LT(missed.relative.mean, 1e-6);
  k_[21 * kSize] = 0;
  k_[36 * kSize] = 2;  // In the window, which the rotated query reads: nobody looks there.
  EXPECT_NEAR(Sample().relative.mean, 1, 1e-6);
  q_rot_[0] = q_rot_[kSize] = 20;
  EXPECT_LT(Sample().far, 1e-3);
}

TEST_F(GateMassTest, HeadsThatAreNotFiniteAddNothing) {
  k_[15 * kSize] = std::nanf("");  // Both heads read it.
  q_[0] = q_[kSize] = 1;
  const GateMassSummary summary = Sample();
  EXPECT_EQ(summary.far, 0);
  EXPECT_EQ(summary.num_samples, 1);
}

TEST_F(GateMassTest, QueriesWithoutAChoiceAreLeftOut) {
  GateMass mass({3, 40});
  candidates_.assign(40, -1);
  mass.OnAttention(Step(TensorView::Of(candidates_.data(), {1, 40})));
  mass.OnAttention(Step(TensorView()));
  EXPECT_TRUE(mass.samples().empty());
  EXPECT_EQ(mass.Summary().num_samples, 0);
}

TEST_F(GateMassTest, WorstLayerAndPercentile) {
  GateMass mass({40});
  q_[0] = q_[kSize] = 20;
  k_[20 * kSize] = 2;  // All the mass.
  for (int layer = 0; layer < 3; ++layer) {
    candidates_[1] = layer == 1 ? 21 : 20;  // Layer 1 misses it.
    mass.OnAttention(Step(TensorView::Of(candidates_.data(), {1, 4}), layer));
  }
  const GateMassSummary summary = mass.Summary();
  EXPECT_NEAR(summary.relative.mean, 2.0 / 3, 1e-6);
  EXPECT_NEAR(summary.relative.worst_layer, 0, 1e-6);
  EXPECT_NEAR(summary.relative.p5, 0, 1e-6);
  EXPECT_NEAR(summary.by_distance[4].relative.worst_layer, 0, 1e-6);
  EXPECT_EQ(summary.relative_by_layer.size(), 3u);
}

TEST(SpreadPositionsTest, EvenAndWithTheLast) {
  EXPECT_EQ(SpreadPositions(100, 4), (std::vector<int64_t>{24, 49, 74, 99}));
  EXPECT_EQ(SpreadPositions(2, 4), (std::vector<int64_t>{0, 1}));
  EXPECT_TRUE(SpreadPositions(0, 4).empty());
}

TEST(ContainsValueTest, WholeWordsOnly) {
  EXPECT_TRUE(ContainsValue("The code is 48213.", "48213"));
  EXPECT_FALSE(ContainsValue("The code is 482135.", "48213"));
  EXPECT_TRUE(ContainsValue("482135 or 48213", "48213"));
  EXPECT_FALSE(ContainsValue("", "48213"));
  EXPECT_TRUE(ContainsValue("It was £1,845", "£1,845"));
  EXPECT_FALSE(ContainsValue("Port Ellaryé", "Port Ellary"));
}

std::string HaystackText() {
  std::string text;
  Random random(5);
  while (text.size() < 40000) {
    for (int word = 0; word < 12; ++word) text += random.Below(2) == 0 ? "the cat " : "old stone wall ";
    text += "ran.\n";
  }
  return text;
}

TEST(NeedleTest, DocumentsHoldTheirFactsAtTheirDepths) {
  const Tokenizer tokenizer = testing::TinyTokenizer();
  const Haystack haystack(tokenizer, {HaystackText()});
  NeedleOptions options;
  options.distractors = 2;
  constexpr int64_t kLength = 9000;
  for (int64_t document_idx = 0; document_idx < 3; ++document_idx) {
    const NeedleDocument document = MakeNeedleDocument(tokenizer, haystack, options, kLength, document_idx);
    EXPECT_LE(static_cast<int64_t>(document.tokens.size()), kLength - options.max_answer_tokens);
    EXPECT_EQ(document.tokens.front(), kDocument);
    const std::string text = tokenizer.Decode(std::span(document.tokens).subspan(1));
    ASSERT_EQ(document.needles.size(), 10u);
    EXPECT_EQ(document.distractors.size(), 20u);
    for (size_t i = 0; i < document.needles.size(); ++i) {
      const size_t at = text.find(document.needles[i].sentence);
      ASSERT_NE(at, std::string::npos);
      EXPECT_NEAR(static_cast<double>(at) / static_cast<double>(text.size()),
                  NeedleDepth(static_cast<int64_t>(i)), 0.1);
    }
    for (const Fact& fact : document.distractors) EXPECT_THAT(text, HasSubstr(fact.sentence));
    const NeedleDocument again = MakeNeedleDocument(tokenizer, haystack, options, kLength, document_idx);
    EXPECT_EQ(again.tokens, document.tokens);
  }
  EXPECT_NE(MakeNeedleDocument(tokenizer, haystack, options, kLength, 0).tokens,
            MakeNeedleDocument(tokenizer, haystack, options, kLength, 1).tokens);
  EXPECT_THROW(MakeNeedleDocument(tokenizer, haystack, options, 500, 0), InputError);
}

TEST(NeedleTest, RunsEveryTrial) {
  const auto engine = TinyEngine();
  const Haystack haystack(engine->tokenizer(), {HaystackText()});
  NeedleOptions options;
  options.lengths = {5000};
  options.needles = 11;  // Two documents.
  options.distractors = 0;
  options.max_answer_tokens = 3;
  int64_t calls = 0, last_done = 0;
  const NeedleResult result = RunNeedles(
      *engine, haystack, options,
      [&](const NeedleTrial& trial) {
        ++calls;
        EXPECT_FALSE(trial.value.empty());
      },
      [&](int64_t done, int64_t total) {
        EXPECT_EQ(total, 2 * 5000);
        EXPECT_GE(done, last_done);
        last_done = done;
      });
  EXPECT_EQ(calls, 20);
  EXPECT_EQ(last_done, 2 * 5000);
  EXPECT_EQ(result.trials.size(), 20u);
  EXPECT_THAT(NeedleTable({result}), HasSubstr("5,000"));
  EXPECT_EQ(NeedleJson({result})["results"][0]["trials"].size(), 20u);
  EXPECT_FALSE(NeedleJson({result}).contains("sparse_below_dense"));
  options.lengths = {100000};
  EXPECT_THROW(RunNeedles(*engine, haystack, options), InputError);
}

TEST(NeedleTest, Accuracy) {
  NeedleResult result;
  result.options.lengths = {10, 20};
  result.trials = {
      {10, 0, 0, 0, "", "", "", true}, {10, 0, 1, 0, "", "", "", false}, {20, 0, 0, 0, "", "", "", true}};
  EXPECT_EQ(result.Accuracy(10), 0.5);
  EXPECT_EQ(result.Accuracy(10, 0), 1);
  EXPECT_EQ(result.Accuracy(10, 1), 0);
  EXPECT_EQ(result.Accuracy(20), 1);
}

TEST(NeedleTest, SevenDistractorsAreOfTheNeedlesAttribute) {
  const Tokenizer tokenizer = testing::TinyTokenizer();
  const Haystack haystack(tokenizer, {HaystackText()});
  NeedleOptions options;
  options.distractors = 7;
  const NeedleDocument document = MakeNeedleDocument(tokenizer, haystack, options, 30000, 0);
  ASSERT_EQ(document.distractors.size(), 70u);
  for (size_t i = 0; i < document.distractors.size(); ++i) {
    EXPECT_EQ(document.distractors[i].attribute, document.needles[i / 7].attribute);
    EXPECT_NE(document.distractors[i].subject, document.needles[i / 7].subject);
  }
}

TEST(NeedleTest, PlacesWhereSparseFindsFewerAreNamed) {
  NeedleResult dense;
  dense.options.lengths = {10};
  dense.options.session.attention = AttentionMode::kDense;
  dense.trials = {{10, 0, 0, 0, "", "", "", true}, {10, 0, 1, 0, "", "", "", true}};
  NeedleResult sparse = dense;
  sparse.options.session.attention = AttentionMode::kSparse;
  EXPECT_TRUE(NeedleLosses(sparse, dense).empty());
  EXPECT_THAT(NeedleTable({dense, sparse}), HasSubstr("no fewer at any length and depth"));
  sparse.trials[1].correct = false;
  dense.trials[0].correct = false;
  const std::vector<NeedleLoss> losses = NeedleLosses(sparse, dense);
  ASSERT_EQ(losses.size(), 1u);
  EXPECT_EQ(losses[0].depth_idx, 1);
  EXPECT_THAT(NeedleTable({dense, sparse}), HasSubstr("sparse below dense at 10 tokens, depth 15%"));
  EXPECT_EQ(NeedleJson({dense, sparse})["sparse_below_dense"][0]["dense"], 1.0);
}

TEST(PerplexityTest, MatchesTheScoresOfItsWindows) {
  const auto engine = TinyEngine();
  const std::vector<std::string> texts = {HaystackText().substr(0, 900), "cat",
                                          HaystackText().substr(50, 300)};
  PerplexityOptions options;
  options.context = 64;
  double nats = 0;
  int64_t tokens = 0;
  for (const std::string& text : texts) {
    const std::vector<int32_t> ids = engine->tokenizer().Encode(text);
    for (size_t begin = 0; begin + 1 < ids.size(); begin += 64) {
      Session session(*engine);
      const auto window = std::span(ids).subspan(begin, std::min<size_t>(64, ids.size() - begin));
      for (const float score : session.AppendScored(window)) nats += score;
      tokens += static_cast<int64_t>(window.size()) - 1;
    }
  }
  const PerplexityResult result = RunPerplexity(*engine, texts, options);
  EXPECT_EQ(result.tokens, tokens);
  EXPECT_NEAR(result.nats, nats, 1e-6 * nats);
  EXPECT_NEAR(result.perplexity(), std::exp(nats / static_cast<double>(tokens)), 1e-3);
  options.session.chunk_tokens = 7;
  EXPECT_EQ(RunPerplexity(*engine, texts, options).nats, result.nats);
  options.max_tokens = 100;
  EXPECT_EQ(RunPerplexity(*engine, texts, options).tokens, 98);  // A window of 64 and one of 36.
  options.context = 1;
  EXPECT_THROW(RunPerplexity(*engine, texts, options), InputError);
}

class PlotTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("command -v gnuplot > /dev/null 2>&1") != 0) GTEST_SKIP() << "gnuplot is not installed";
  }
  // Tests may run side by side, each in a process of its own.
  std::filesystem::path file_ =
      std::filesystem::path(::testing::TempDir()) / fmt::format("sluice_plot_test_{}.svg", getpid());
};

TEST_F(PlotTest, LinesAndHeatMap) {
  LinePlot lines;
  lines.title = "A \"title\" with 100% \\ of_everything";
  lines.series = {{"one", {1, 2, 3}, {1, NAN, 2}}, {"two", {1, 2, 3}, {3, 2, 1}}};
  WritePlot(lines, file_);
  EXPECT_THAT(ReadFile(file_), HasSubstr("</svg>"));
  HeatMap map;
  map.title = "map";
  map.x_names = {"5%", "95%"};
  map.y_names = {"4,096", "8,192", "16,384"};
  map.values = {{0, 50}, {100, 20}, {33, 90}};
  WritePlot(map, file_);
  const std::string svg = ReadFile(file_);
  EXPECT_THAT(svg, HasSubstr("16,384"));
  EXPECT_THAT(svg, HasSubstr("95%"));
  std::filesystem::remove(file_);
}

TEST_F(PlotTest, WithoutGnuplotTheErrorNamesThePackage) {
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", "/nonexistent", 1);
  LinePlot lines;
  lines.series = {{"one", {1, 2}, {1, 2}}};
  std::string message;
  try {
    WritePlot(lines, file_);
  } catch (const InputError& error) {
    message = error.what();
  }
  ::setenv("PATH", path.c_str(), 1);
  EXPECT_THAT(message, HasSubstr("gnuplot-nox"));
  EXPECT_FALSE(std::filesystem::exists(file_));
}

}  // namespace
}  // namespace sluice
