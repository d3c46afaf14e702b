// A pass over several timelines gives each the bits that it has alone, whatever the others are, how their
// tokens are cut, and how many threads there are.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/threads.h"
#include "engine/testing.h"

namespace sluice {
namespace {

using testing::FreshLogits;
using testing::RandomTokens;
using testing::TinyConfig;
using testing::TinyEngine;

// One of each kind, deep and shallow.
std::vector<SessionOptions> AllOptions() {
  std::vector<SessionOptions> all(7);
  all[1].attention = AttentionMode::kDense;
  all[2].top_k = 5;
  all[3].gate_mass = 0.5;
  all[4].guarantee = 0.2;
  all[5].index = GateIndex::kTree;
  all[5].tree_group = 256;
  all[5].tree.beam = 16;
  for (SessionOptions& options : all) options.capacity = 400;
  return all;
}

struct Timeline {
  std::vector<int32_t> tokens;
  Session session;
  std::vector<float> logits;  // Behind all tokens, once they have run.

  int64_t left() const { return std::ssize(tokens) - session.num_tokens(); }
};

// Runs all timelines to their ends in passes of up to `most_rows` tokens each, decoding the last 20.
void RunAll(std::vector<Timeline>& timelines, int64_t most_rows, uint64_t seed, int64_t vocab) {
  Random random(seed);
  PassMemory memory;
  while (true) {
    std::vector<SessionPart> parts;
    std::vector<Timeline*> ending;
    for (Timeline& timeline : timelines) {
      if (timeline.left() == 0 || random.Below(4) == 0) continue;
      const auto most = 1 + static_cast<int64_t>(random.Below(static_cast<uint64_t>(most_rows)));
      const int64_t count = timeline.left() <= 20 ? 1 : std::min(most, timeline.left() - 20);
      const auto begin = static_cast<size_t>(timeline.session.num_tokens());
      const bool ends = count == timeline.left();
      parts.push_back({&timeline.session,
                       std::span(timeline.tokens).subspan(begin, static_cast<size_t>(count)), ends ? 1 : 0});
      if (ends) ending.push_back(&timeline);
    }
    if (std::all_of(timelines.begin(), timelines.end(), [](const Timeline& t) { return t.left() == 0; }))
      return;
    if (parts.empty()) continue;
    const Buffer logits(DType::kF32, {std::ssize(ending), vocab});
    RunTogether(memory, parts, ending.empty() ? TensorView() : logits.view());
    for (size_t i = 0; i < ending.size(); ++i) {
      const float* row = logits.view().row<float>(static_cast<int64_t>(i));
      ending[i]->logits.assign(row, row + vocab);
    }
  }
}

void CheckAll(const Engine& engine) {
  const std::vector<SessionOptions> options = AllOptions();
  std::vector<std::vector<int32_t>> texts;
  std::vector<std::vector<float>> alone;
  for (size_t i = 0; i < 2 * options.size(); ++i) {
    texts.push_back(RandomTokens(i % 2 == 0 ? 60 : 320 + static_cast<int64_t>(i), i));
    alone.push_back(FreshLogits(engine, texts.back(), options[i / 2]));
  }
  const int before = NumThreads();
  for (const int threads : {1, 2}) {
    SetNumThreads(threads);
    for (const int64_t most_rows : {1, 30, 400}) {
      std::vector<Timeline> timelines;
      for (size_t i = 0; i < texts.size(); ++i)
        timelines.push_back({texts[i], Session(engine, options[i / 2]), {}});
      RunAll(timelines, most_rows, static_cast<uint64_t>(most_rows), engine.config().vocab_size);
      for (size_t i = 0; i < texts.size(); ++i) {
        EXPECT_EQ(timelines[i].logits, alone[i])
            << "timeline " << i << ", " << threads << " threads, up to " << most_rows << " rows";
        timelines[i].session.cache().CheckIntegrity();
      }
    }
  }
  SetNumThreads(before);
}

TEST(JointPassTest, EachTimelineHasTheBitsThatItHasAlone) {
  CheckAll(*TinyEngine());
}

TEST(JointPassTest, AlsoWithABiasOfTheGate) {
  ModelConfig config = TinyConfig();
  config.gate.bias = true;
  CheckAll(*TinyEngine(config));
}

TEST(JointPassTest, AlsoWithWideHeads) {
  CheckAll(*TinyEngine(testing::WideHeadConfig()));
}

TEST(JointPassTest, LogitsOfSeveralRowsStandInTheOrderOfTheParts) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> a = RandomTokens(40, 1), b = RandomTokens(30, 2);
  Session first(*engine), second(*engine);
  const Buffer logits(DType::kF32, {5, engine->config().vocab_size});
  PassMemory memory;
  const std::vector<SessionPart> parts = {{&first, a, 2}, {&second, b, 3}};
  RunTogether(memory, parts, logits);
  const auto expect_row = [&](int64_t row, const std::vector<int32_t>& tokens, int64_t behind) {
    const std::vector<float> alone = FreshLogits(*engine, {tokens.begin(), tokens.begin() + behind});
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), logits.view().row<float>(row))) << row;
  };
  expect_row(0, a, 39);
  expect_row(1, a, 40);
  for (int64_t row = 2; row < 5; ++row) expect_row(row, b, 26 + row);
}

TEST(JointPassTest, EachSessionCountsItsOwnExperts) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> a = RandomTokens(40, 1), b = RandomTokens(30, 2);
  Session first(*engine), second(*engine), alone(*engine);
  PassMemory memory;
  const std::vector<SessionPart> parts = {{&first, a, 0}, {&second, b, 0}};
  RunTogether(memory, parts, {});
  alone.Sync(b);
  for (int64_t layer = 0; layer < engine->config().num_layers; ++layer)
    EXPECT_TRUE(std::ranges::equal(second.expert_load().Layer(layer), alone.expert_load().Layer(layer)));
}

TEST(JointPassTest, APassThatFailsLeavesItsSessionsEmpty) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> text = RandomTokens(70, 1), bad = {5, 300};
  Session first(*engine), second(*engine);
  first.Sync(text);
  PassMemory memory;
  const std::vector<int32_t> more = {7};
  const std::vector<SessionPart> parts = {{&first, more, 0}, {&second, bad, 0}};
  EXPECT_THROW(RunTogether(memory, parts, {}), Bug);
  EXPECT_EQ(first.num_tokens(), 0);
  EXPECT_EQ(second.num_tokens(), 0);
  first.Sync(text);
  EXPECT_EQ(testing::LogitsOf(first), FreshLogits(*engine, text));
}

}  // namespace
}  // namespace sluice
