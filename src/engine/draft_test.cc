// Drafted tokens change how many passes there are, and no bit of what comes out.
#include <gtest/gtest.h>

#include <algorithm>

#include "engine/generate.h"
#include "engine/speculation.h"
#include "engine/testing.h"

namespace sluice {
namespace {

using testing::FreshLogits;
using testing::LogitsOf;
using testing::RandomTokens;
using testing::TinyEngine;

// Appends `tokens` one by one, with drafts of which the first few are right, and compares every logit.
void WalkWithDrafts(const Engine& engine, const SessionOptions& options, int64_t size) {
  const std::vector<int32_t> tokens = RandomTokens(size, 5);
  Random random(7);
  Session plain(engine, options), drafting(engine, options);
  int64_t passes = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    plain.Append(tokens[i]);
    if (drafting.IsForeseen(tokens[i])) {
      drafting.Append(tokens[i]);
    } else {
      const size_t most =
          std::min<size_t>(tokens.size() - i - 1, static_cast<size_t>(Speculation::kMaxDraft));
      std::vector<int32_t> draft(tokens.begin() + static_cast<std::ptrdiff_t>(i) + 1, tokens.end());
      draft.resize(random.Below(most + 1));
      if (!draft.empty() && random.Below(4) > 0) draft[random.Below(draft.size())] = 299;
      drafting.Append(tokens[i], draft);
      ++passes;
    }
    ASSERT_EQ(drafting.tokens(), plain.tokens());
    ASSERT_EQ(LogitsOf(drafting), LogitsOf(plain)) << "token " << i;
    if (random.Below(20) == 0) drafting.Settle();
    if (random.Below(20) != 0) continue;
    drafting.Settle();
    drafting.cache().CheckIntegrity();
    ASSERT_EQ(LogitsOf(drafting), LogitsOf(plain));
  }
  EXPECT_LT(passes, size / 2);
}

TEST(DraftTest, LogitsAreThoseOfOneTokenAtATime) {
  const auto engine = TinyEngine();
  for (const DType format : {DType::kF32, DType::kBF16, DType::kI8}) {
    SessionOptions options;
    options.cache_format = format;
    WalkWithDrafts(*engine, options, 200);
  }
}

TEST(DraftTest, AlsoInOtherWaysToAttend) {
  const auto engine = TinyEngine();
  SessionOptions dense, tree, guaranteed;
  dense.attention = AttentionMode::kDense;
  tree.index = GateIndex::kTree;
  tree.tree_group = 256;
  tree.tree.beam = 16;
  guaranteed.guarantee = 0.2;
  WalkWithDrafts(*engine, dense, 200);
  WalkWithDrafts(*engine, tree, 350);  // Past the end of a group.
  WalkWithDrafts(*engine, guaranteed, 200);
}

TEST(DraftTest, ADraftThatIsLeftBehindIsForgotten) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> text = RandomTokens(200, 1), draft = {1, 2, 3, 4};
  std::vector<int32_t> tokens = text;
  tokens.push_back(9);
  tokens.push_back(1);
  const auto begin = [&] {
    Session session(*engine);
    session.Sync(text);
    session.Append(9, draft);
    session.Append(1);
    EXPECT_TRUE(session.IsForeseen(2));
    return session;
  };
  Session synced = begin();
  std::vector<int32_t> more = tokens;
  more.insert(more.end(), {2, 8, 7});
  EXPECT_EQ(synced.Sync(more).computed_tokens, 3);
  EXPECT_EQ(LogitsOf(synced), FreshLogits(*engine, more));
  Session scored = begin();
  scored.AppendScored(std::vector<int32_t>{2, 8, 7});
  EXPECT_EQ(LogitsOf(scored), FreshLogits(*engine, more));
  Session truncated = begin();
  EXPECT_EQ(truncated.Truncate(150), 128);
  truncated.Sync(more);
  EXPECT_EQ(LogitsOf(truncated), FreshLogits(*engine, more));
  Session cleared = begin();
  cleared.Clear();
  cleared.Sync(tokens);
  EXPECT_EQ(LogitsOf(cleared), FreshLogits(*engine, tokens));
}

TEST(DraftTest, AGenerationIsTheSameHoweverFarAheadItDrafts) {
  const auto engine = TinyEngine();
  std::vector<SamplingOptions> ways(4);
  ways[1].temperature = 0.3;
  ways[2].temperature = 1.2;
  ways[2].top_p = 0.8;
  ways[3].repetition_penalty = 1.05;
  ways[3].frequency_penalty = 0.1;
  std::vector<int32_t> prompt = RandomTokens(150, 3);
  prompt.insert(prompt.end(), prompt.begin(), prompt.begin() + 100);  // Something to look up.
  for (SamplingOptions sampling : ways) {
    sampling.max_tokens = 80;
    sampling.logprobs = 2;
    sampling.seed = 11;
    std::vector<Generation> runs;
    std::vector<std::vector<float>> logits;
    for (const int64_t max_draft : {0, 1, 5, 63}) {
      sampling.max_draft = max_draft;
      SessionOptions options;
      options.chunk_tokens = max_draft == 5 ? 17 : 1024;
      Session session(*engine, options);
      session.Sync(prompt);
      runs.push_back(Generate(session, sampling));
      logits.push_back(LogitsOf(session));
      session.cache().CheckIntegrity();
      EXPECT_LE(runs.back().accepted, runs.back().drafted);
      EXPECT_EQ(runs.back().passes + runs.back().accepted, runs[0].passes);
      const bool is_greedy = sampling.temperature == 0 && sampling.repetition_penalty == 1;
      // The likeliest tokens repeat soon, and the first draft is always checked.
      if (is_greedy) {
        EXPECT_EQ(runs.back().drafted > 0, max_draft > 0);
      }
    }
    for (size_t i = 1; i < runs.size(); ++i) {
      EXPECT_EQ(runs[i].tokens, runs[0].tokens);
      EXPECT_EQ(runs[i].text, runs[0].text);
      EXPECT_EQ(runs[i].stop, runs[0].stop);
      EXPECT_EQ(logits[i], logits[0]);
      for (size_t t = 0; t < runs[0].logprobs.size(); ++t)
        EXPECT_EQ(runs[i].logprobs[t].chosen.logprob, runs[0].logprobs[t].chosen.logprob);
    }
  }
}

TEST(DraftTest, WhatACallbackThrowsLeavesTheTimelineWhereItWas) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> prompt = RandomTokens(100, 3);
  SamplingOptions sampling;
  sampling.max_tokens = 100;
  sampling.max_draft = 8;
  Session session(*engine);
  session.Sync(prompt);
  int64_t pieces = 0;
  EXPECT_THROW(Generate(session, sampling,
                        [&](std::string_view) {
                          if (++pieces == 40) throw SystemError("stop");
                        }),
               SystemError);
  EXPECT_EQ(LogitsOf(session), FreshLogits(*engine, session.tokens()));
  const std::vector<int32_t> so_far = session.tokens();
  session.Append(5);
  EXPECT_EQ(session.num_tokens(), std::ssize(so_far) + 1);
}

}  // namespace
}  // namespace sluice
