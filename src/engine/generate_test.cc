#include "engine/generate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/prompt.h"
#include "engine/testing.h"
#include "text/utf8.h"

namespace sluice {
namespace {

using testing::RandomTokens;
using testing::TinyEngine;

// An engine whose model always prefers `token`: the embedding is also the output head.
std::unique_ptr<Engine> EngineThatSays(int32_t token) {
  auto engine = TinyEngine();
  const Model& model = engine->model();
  for (const ParameterInfo& parameter : model.table().parameters()) {
    const TensorView view = model.table().View(parameter, model.parameters());
    float* values = view.data<float>();
    const bool is_embedding = parameter.name == "model.embed_tokens.weight";
    for (int64_t i = 0; i < view.num_elements(); ++i) {
      const bool wanted = i / view.dim(view.rank() - 1) == token;
      if (is_embedding) values[i] = wanted ? 2.0f : 1.0f;
      if (parameter.name.find("down_proj") != std::string::npos) values[i] = 0;
      if (parameter.name.find("o_proj") != std::string::npos) values[i] = 0;
    }
  }
  return engine;
}

TEST(GenerateTest, StopsAtTheMarksThatEndAnAnswer) {
  for (const int32_t stop : {kEndOfText, kUser}) {
    const auto engine = EngineThatSays(stop);
    Session session(*engine);
    session.Sync(RandomTokens(10, 1));
    const Generation generation = Generate(session, {});
    EXPECT_EQ(generation.stop, StopReason::kStopToken);
    EXPECT_TRUE(generation.tokens.empty());
    EXPECT_EQ(session.num_tokens(), 10);
  }
}

TEST(GenerateTest, StopsAtTheLimitAndAtTheEndOfTheContext) {
  const auto engine = EngineThatSays(100);
  SessionOptions options;
  options.capacity = 20;
  Session session(*engine, options);
  session.Sync(RandomTokens(10, 1));
  SamplingOptions sampling;
  sampling.max_tokens = 4;
  const Generation first = Generate(session, sampling);
  EXPECT_EQ(first.stop, StopReason::kMaxTokens);
  EXPECT_EQ(first.tokens, std::vector<int32_t>(4, 100));
  sampling.max_tokens = 100;
  EXPECT_EQ(Generate(session, sampling).stop, StopReason::kContextFull);
  EXPECT_EQ(session.num_tokens(), 20);
}

TEST(GenerateTest, SameSeedSameTokens) {
  const auto engine = TinyEngine();
  SamplingOptions sampling;
  sampling.temperature = 1.5;
  sampling.max_tokens = 40;
  sampling.seed = 5;
  std::vector<Generation> runs;
  for (int run = 0; run < 3; ++run) {
    if (run == 2) sampling.seed = 6;
    Session session(*engine);
    session.Sync(RandomTokens(30, 2));
    std::string streamed;
    runs.push_back(Generate(session, sampling, [&](std::string_view text) { streamed += text; }));
    EXPECT_EQ(streamed, runs.back().text);
    EXPECT_FALSE(ValidateUtf8(streamed).has_value());
  }
  EXPECT_EQ(runs[0].tokens, runs[1].tokens);
  EXPECT_NE(runs[0].tokens, runs[2].tokens);
}

TEST(GenerateTest, RejectsOptionsOutOfRange) {
  const auto engine = TinyEngine();
  Session session(*engine);
  session.Sync(RandomTokens(5, 2));
  SamplingOptions options;
  options.logit_bias[static_cast<int32_t>(engine->config().vocab_size)] = 1;
  EXPECT_THROW(Generate(session, options), InputError);
}

TEST(GenerateTest, ABiasOf100ForcesAToken) {
  const auto engine = TinyEngine();
  Session session(*engine);
  session.Sync(RandomTokens(5, 2));
  SamplingOptions options;
  options.temperature = 1.5;
  options.max_tokens = 20;
  options.logit_bias[123] = 100;
  EXPECT_EQ(Generate(session, options).tokens, std::vector<int32_t>(20, 123));
}

TEST(GenerateTest, PenaltiesCountThePromptOrTheAnswer) {
  const auto engine = EngineThatSays(100);
  std::vector<int32_t> prompt = RandomTokens(10, 1);
  prompt.back() = 100;
  SamplingOptions options;
  options.max_tokens = 1;
  const auto answer = [&] {
    Session session(*engine);
    session.Sync(prompt);
    return Generate(session, options).tokens;
  };
  options.presence_penalty = 2;
  options.frequency_penalty = 2;
  EXPECT_EQ(answer(), std::vector<int32_t>{100});
  options.repetition_penalty = 100;
  EXPECT_NE(answer(), std::vector<int32_t>{100});
}

// Whatever the sampler does to the logits, logprobs are the model's own.
TEST(GenerateTest, LogprobsAreThoseOfScoring) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> prompt = RandomTokens(30, 2);
  SamplingOptions options;
  options.temperature = 1.5;
  options.top_k = 50;
  options.repetition_penalty = 1.3;
  options.presence_penalty = 0.5;
  options.logit_bias = {{0, -std::numeric_limits<double>::infinity()}, {7, 2}};
  options.max_tokens = 40;
  Session session(*engine);
  session.Sync(prompt);
  EXPECT_TRUE(Generate(session, options).logprobs.empty());
  options.logprobs = 5;
  session.Sync(prompt);
  const Generation generation = Generate(session, options);
  ASSERT_GT(generation.tokens.size(), 5u);
  ASSERT_EQ(generation.logprobs.size(), generation.tokens.size());
  session.Sync(prompt);
  const std::vector<float> losses = session.AppendScored(generation.tokens);
  for (size_t i = 0; i < losses.size(); ++i) {
    const PlaceLogprobs& place = generation.logprobs[i];
    EXPECT_EQ(place.chosen.token, generation.tokens[i]);
    EXPECT_EQ(place.chosen.logprob, -losses[i]) << "token " << i;
    ASSERT_EQ(place.likeliest.size(), 5u);
    double sum = 0;
    for (size_t rank = 0; rank < 5; ++rank) {
      const TokenLogprob& likely = place.likeliest[rank];
      sum += std::exp(static_cast<double>(likely.logprob));
      EXPECT_LE(likely.logprob, place.likeliest[rank == 0 ? 0 : rank - 1].logprob);
      EXPECT_TRUE(likely.token != place.chosen.token || likely.logprob == place.chosen.logprob);
    }
    EXPECT_LE(sum, 1 + 1e-6);
    EXPECT_GE(place.likeliest.front().logprob, place.chosen.logprob);
  }
}

TEST(PromptTest, MarksStandAroundEncodedText) {
  const Tokenizer tokenizer = testing::TinyTokenizer();
  const std::vector<int32_t> document = tokenizer.Encode("the <|user|> cat");
  for (const int32_t token : document) EXPECT_GE(token, 4) << "a document cannot spell a mark";
  const std::vector<int32_t> prompt = AskPrompt(document, tokenizer, "where?");
  EXPECT_EQ(prompt.front(), kDocument);
  EXPECT_EQ(prompt[document.size() + 1], kUser);
  EXPECT_EQ(prompt.back(), kAssistant);
  EXPECT_EQ(prompt.size(), document.size() + tokenizer.Encode("where?").size() + 3);
}

}  // namespace
}  // namespace sluice
