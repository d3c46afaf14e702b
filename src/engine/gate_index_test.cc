// The gate's tree index in a session: a beam of all leaves gives the flat scan's bits; with fewer the
// selection is still the same in any chunks, token by token and on any number of threads, and depends on no
// later token.
#include <gtest/gtest.h>

#include <map>

#include "base/threads.h"
#include "engine/session.h"
#include "engine/testing.h"

namespace sluice {
namespace {

using testing::RandomTokens;
using testing::TinyConfig;
using testing::TinyEngine;

constexpr int64_t kGroup = 256;
constexpr int64_t kAllLeaves = 6000 / 16;

SessionOptions TreeOptionsOf(int64_t beam) {
  SessionOptions options;
  options.index = GateIndex::kTree;
  options.tree_group = kGroup;
  options.tree.beam = beam;
  options.chunk_tokens = 4096;
  return options;
}

// Selections by (layer, position).
class Recorder final : public PassObserver {
 public:
  void OnAttention(const AttentionStep& step) override {
    for (int64_t t = 0; t < step.candidates.dim(0); ++t) {
      const int32_t* row = step.candidates.row<int32_t>(t);
      selections[{step.layer, step.inputs.span.Position(t)}] = {row, row + step.candidates.dim(1)};
    }
  }
  std::map<std::pair<int64_t, int64_t>, std::vector<int32_t>> selections;
};

struct Reading {
  std::map<std::pair<int64_t, int64_t>, std::vector<int32_t>> selections;
  std::vector<float> logits;
  bool operator==(const Reading&) const = default;
};

// Reads the first tokens at once, the last `decoded` one by one.
Reading Read(const Engine& engine, const std::vector<int32_t>& tokens, const SessionOptions& options,
             size_t decoded = 0) {
  Session session(engine, options);
  Recorder recorder;
  session.Observe(&recorder);
  session.Sync(std::span(tokens).first(tokens.size() - decoded));
  for (const int32_t token : std::span(tokens).last(decoded)) session.Append(token);
  session.cache().CheckIntegrity();
  const TensorView logits = session.logits();
  return {recorder.selections, {logits.data<float>(), logits.data<float>() + logits.num_elements()}};
}

TEST(GateIndexTest, BeamOfAllLeavesIsTheFlatScan) {
  const auto engine = TinyEngine();
  for (const int64_t length : {279, 280, 281, 3000}) {
    const std::vector<int32_t> tokens = RandomTokens(length, 21);
    SessionOptions flat;
    flat.index = GateIndex::kFlat;
    EXPECT_EQ(Read(*engine, tokens, TreeOptionsOf(kAllLeaves)), Read(*engine, tokens, flat)) << length;
  }
}

TEST(GateIndexTest, ChunksDecodingAndThreadsDoNotChangeTheBits) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> tokens = RandomTokens(2700, 22);
  SessionOptions options = TreeOptionsOf(1);
  const Reading whole = Read(*engine, tokens, options);
  SessionOptions flat;
  flat.index = GateIndex::kFlat;
  EXPECT_NE(whole.selections, Read(*engine, tokens, flat).selections) << "the beam is too wide for this test";
  for (const int64_t chunk : {17, 512, 1000}) {
    options.chunk_tokens = chunk;
    EXPECT_EQ(Read(*engine, tokens, options), whole) << chunk;
  }
  EXPECT_EQ(Read(*engine, tokens, options, 400), whole);
  const int threads = NumThreads();
  for (const int count : {1, 2}) {
    SetNumThreads(count);
    EXPECT_EQ(Read(*engine, tokens, options, 100), whole) << count << " threads";
  }
  SetNumThreads(threads);
}

TEST(GateIndexTest, SelectionsDependOnNoLaterToken) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> tokens = RandomTokens(2600, 23);
  SessionOptions flat;
  flat.index = GateIndex::kFlat;
  for (const SessionOptions& options : {flat, TreeOptionsOf(1)}) {
    for (const size_t decoded : {size_t{0}, size_t{300}}) {
      const Reading before = Read(*engine, tokens, options, decoded);
      for (const int64_t changed : {500, 1792, 2559}) {
        std::vector<int32_t> others = tokens;
        for (size_t i = static_cast<size_t>(changed); i < others.size(); ++i)
          others[i] = (others[i] + 7) % 300;
        const Reading after = Read(*engine, others, options, decoded);
        for (const auto& [key, selection] : before.selections) {
          if (key.second >= changed) continue;
          ASSERT_EQ(after.selections.at(key), selection) << "layer " << key.first << ", token " << key.second;
        }
        EXPECT_NE(before.selections, after.selections);
      }
    }
  }
}

TEST(GateIndexTest, AutoScansUntilTheTreePays) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> tokens = RandomTokens(2400, 24);
  SessionOptions options = TreeOptionsOf(1);
  const Reading tree = Read(*engine, tokens, options);
  options.index = GateIndex::kFlat;
  const Reading flat = Read(*engine, tokens, options);
  options.index = GateIndex::kAuto;
  options.tree.min_keys = 2000;
  const Reading both = Read(*engine, tokens, options);
  for (const auto& [key, selection] : both.selections) {
    // The first layer's selection; later layers have read what it chose.
    if (key.first != 0) continue;
    const bool searched = key.second - TinyConfig().window + 1 >= 2000;
    EXPECT_EQ(selection, (searched ? tree : flat).selections.at(key)) << key.second;
  }
  EXPECT_NE(both.selections, flat.selections);
  // No tree is kept where none will be searched.
  options.capacity = 1000;
  EXPECT_FALSE(Session(*engine, options).cache().GateTree(0).present());
}

// A timeline that goes back and forth over the ends of groups.
TEST(GateIndexTest, AnyPathLeadsToTheSameBits) {
  const auto engine = TinyEngine();
  Random random(12);
  SessionOptions options = TreeOptionsOf(1);
  options.capacity = 1800;
  options.chunk_tokens = 300;
  Session session(*engine, options);
  std::vector<int32_t> tokens = RandomTokens(1500, 25);
  for (int step = 0; step < 8; ++step) {
    tokens.resize(900 + random.Below(tokens.size() - 900));
    const std::vector<int32_t> more =
        RandomTokens(100 + static_cast<int64_t>(random.Below(500)), random.NextU64());
    tokens.insert(tokens.end(), more.begin(), more.end());
    if (tokens.size() > 1700) tokens.resize(1700);
    session.Sync(tokens);
    session.cache().CheckIntegrity();
    const TensorView logits = session.logits();
    const std::vector<float> reached(logits.data<float>(), logits.data<float>() + logits.num_elements());
    ASSERT_EQ(reached, Read(*engine, tokens, options).logits) << "step " << step;
  }
}

}  // namespace
}  // namespace sluice
