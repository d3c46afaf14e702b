#include "engine/generate.h"

#include <gtest/gtest.h>

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
  for (const SamplingOptions& options :
       {SamplingOptions{-1, 0, 1, 0, 5}, SamplingOptions{1, -1, 1, 0, 5}, SamplingOptions{1, 0, 0, 0, 5},
        SamplingOptions{1, 0, 1.5, 0, 5}, SamplingOptions{1, 0, 1, 0, -5}}) {
    EXPECT_THROW(Generate(session, options), InputError);
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
