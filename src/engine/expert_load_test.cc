// A session counts every row that an expert serves, whatever the chunks.
#include "model/expert_load.h"

#include <gtest/gtest.h>

#include "engine/session.h"
#include "engine/testing.h"

namespace sluice {
namespace {

using testing::RandomTokens;
using testing::TinyConfig;
using testing::TinyEngine;

using Counts = std::vector<std::vector<int64_t>>;

Counts CountsOf(const ExpertLoad& load) {
  Counts counts;
  for (int64_t layer = 0; layer < load.num_layers(); ++layer)
    counts.emplace_back(load.Layer(layer).begin(), load.Layer(layer).end());
  return counts;
}

// Counts the experts of every slot by itself.
class SlotCounter : public PassObserver {
 public:
  void OnRouting(const RoutingStep& step) override {
    std::vector<int64_t>& layer = counts[static_cast<size_t>(step.layer)];
    for (int64_t t = 0; t < step.experts.dim(0); ++t) {
      for (int64_t slot = 0; slot < step.experts.dim(1); ++slot)
        ++layer[static_cast<size_t>(step.experts.row<int32_t>(t)[slot])];
    }
    EXPECT_EQ(step.logits.shape(), step.probs.shape());
    EXPECT_EQ(step.choices.shape(), step.experts.shape());
    EXPECT_EQ(step.bias.num_elements(), step.logits.dim(1));
  }

  Counts counts = Counts(static_cast<size_t>(TinyConfig().num_layers),
                         std::vector<int64_t>(static_cast<size_t>(TinyConfig().moe.num_experts)));
};

TEST(ExpertLoadTest, CountsWhatAnObserverSees) {
  const auto engine = TinyEngine();
  Session session(*engine);
  SlotCounter seen;
  session.Observe(&seen);
  session.Sync(RandomTokens(150, 1));
  session.Append(5);
  EXPECT_EQ(CountsOf(session.expert_load()), seen.counts);
  for (const std::vector<int64_t>& layer : seen.counts) {
    int64_t rows = 0;
    for (const int64_t count : layer) rows += count;
    EXPECT_EQ(rows, 151 * TinyConfig().moe.experts_per_token);
  }
}

TEST(ExpertLoadTest, ChunksDoNotChangeIt) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> tokens = RandomTokens(500, 2);
  SessionOptions options;
  Session whole(*engine, options);
  whole.Sync(tokens);
  options.chunk_tokens = 17;
  Session chunked(*engine, options);
  chunked.Sync(tokens);
  EXPECT_EQ(CountsOf(chunked.expert_load()), CountsOf(whole.expert_load()));
}

TEST(ExpertLoadTest, KeepsWhatHasLeftTheTimeline) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> tokens = RandomTokens(40, 3);
  Session session(*engine);
  session.Sync(tokens);
  const Counts once = CountsOf(session.expert_load());
  session.Clear();
  EXPECT_EQ(CountsOf(session.expert_load()), once);
  session.Sync(tokens);
  Counts twice = once;
  for (std::vector<int64_t>& layer : twice) {
    for (int64_t& count : layer) count *= 2;
  }
  EXPECT_EQ(CountsOf(session.expert_load()), twice);
}

TEST(ExpertLoadTest, MovesWithItsSession) {
  const auto engine = TinyEngine();
  Session first(*engine);
  first.Sync(RandomTokens(40, 3));
  Session second = std::move(first);
  const Counts before = CountsOf(second.expert_load());
  second.Append(1);
  EXPECT_NE(CountsOf(second.expert_load()), before);
}

}  // namespace
}  // namespace sluice
