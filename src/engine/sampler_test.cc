// The sampler's steps before the op against their definition, options out of range, and logprobs.
#include "engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "backend/backend.h"
#include "base/error.h"

namespace sluice {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class SamplerTest : public testing::Test {
 protected:
  Sampler Make(const SamplingOptions& options, const std::vector<int32_t>& prompt = {}, int64_t vocab = 4) {
    return Sampler(*ops_, options, prompt, vocab);
  }
  static int32_t Next(Sampler& sampler, std::vector<float> logits) {
    return sampler.Next(TensorView::Of(logits.data(), {std::ssize(logits)}));
  }
  static std::vector<float> Adjusted(Sampler& sampler, std::vector<float> logits) {
    const TensorView view = sampler.Adjust(TensorView::Of(logits.data(), {std::ssize(logits)}));
    return {view.data<float>(), view.data<float>() + view.dim(0)};
  }
  // A model that leaves no choice.
  static void Say(Sampler& sampler, int32_t token, int64_t vocab) {
    std::vector<float> logits(static_cast<size_t>(vocab), -std::numeric_limits<float>::infinity());
    logits[static_cast<size_t>(token)] = 0;
    ASSERT_EQ(Next(sampler, logits), token);
  }

  std::unique_ptr<Ops> ops_ = MakeOps("cpu");
};

std::vector<float> RandomLogits(int64_t vocab) {
  // Few different values, so that ties are common.
  return *rc::gen::container<std::vector<float>>(
      static_cast<size_t>(vocab), rc::gen::map(rc::gen::inRange(-40, 41), [](int x) { return x / 8.0f; }));
}

std::vector<int32_t> RandomTokens(int64_t vocab) {
  return *rc::gen::container<std::vector<int32_t>>(rc::gen::inRange<int32_t>(0, static_cast<int32_t>(vocab)));
}

// What SamplingOptions says of one token's logit, step by step.
double Expected(const SamplingOptions& options, const std::vector<int32_t>& prompt,
                const std::vector<int32_t>& answer, int32_t token, float logit) {
  const auto bias = options.logit_bias.find(token);
  double x = bias == options.logit_bias.end() ? logit : logit + bias->second;
  const auto times = std::count(answer.begin(), answer.end(), token);
  const bool seen = times > 0 || std::count(prompt.begin(), prompt.end(), token) > 0;
  if (seen) x = x > 0 ? x / options.repetition_penalty : x * options.repetition_penalty;
  x -= options.frequency_penalty * static_cast<double>(times);
  if (times > 0) x -= options.presence_penalty;
  return x;
}

TEST_F(SamplerTest, LogitsOfRandomRequestsAreMovedAsDefined) {
  const bool holds = rc::check("bias and penalties move the logits they name, and no other", [&] {
    const auto vocab = *rc::gen::inRange<int64_t>(1, 30);
    SamplingOptions options;
    options.repetition_penalty = *rc::gen::element(1.0, 0.5, 1.25, 4.0);
    options.presence_penalty = *rc::gen::element(0.0, -0.5, 1.5);
    options.frequency_penalty = *rc::gen::element(0.0, -0.25, 2.0);
    for (const int32_t token : RandomTokens(vocab))
      options.logit_bias[token] = *rc::gen::element(-100.0, -0.5, 0.0, 3.0, 100.0);
    const std::vector<int32_t> prompt = RandomTokens(vocab), answer = RandomTokens(vocab);
    Sampler sampler = Make(options, prompt, vocab);
    for (const int32_t token : answer) Say(sampler, token, vocab);

    const std::vector<float> logits = RandomLogits(vocab);
    const std::vector<float> adjusted = Adjusted(sampler, logits);
    for (int32_t token = 0; token < vocab; ++token) {
      const float logit = logits[static_cast<size_t>(token)];
      const double expected = Expected(options, prompt, answer, token, logit);
      const float found = adjusted[static_cast<size_t>(token)];
      if (expected == logit) {
        RC_ASSERT(found == logit);
      } else {
        RC_ASSERT(std::abs(found - expected) <= 1e-6 * (std::abs(expected) + 1));
      }
    }
  });
  EXPECT_TRUE(holds);
}

TEST_F(SamplerTest, NothingIsCopiedWhereNothingIsMoved) {
  SamplingOptions options;
  options.presence_penalty = 1;
  Sampler sampler = Make(options, {1, 2});
  std::vector<float> logits = {0, 1, 2, 3};
  const TensorView view = TensorView::Of(logits.data(), {4});
  EXPECT_EQ(sampler.Adjust(view).raw(), view.raw()) << "the prompt counts for the repetition penalty alone";
  EXPECT_EQ(sampler.Next(view), 3);
  EXPECT_NE(sampler.Adjust(view).raw(), view.raw());
  EXPECT_EQ(logits, (std::vector<float>{0, 1, 2, 3}));
}

TEST_F(SamplerTest, PenaltiesTurnTheChoice) {
  SamplingOptions options;
  options.repetition_penalty = 2;
  Sampler repetition = Make(options, {3});
  EXPECT_EQ(Next(repetition, {0, 1, 2.5, 4}), 2) << "the prompt's token fell to 2";
  options = {};
  options.presence_penalty = 1;
  Sampler presence = Make(options, {3});
  for (const int32_t expected : {3, 2, 3, 3}) EXPECT_EQ(Next(presence, {0, 0, 3.5, 4}), expected);
  options = {};
  options.frequency_penalty = 1;
  Sampler frequency = Make(options, {3});
  for (const int32_t expected : {3, 2, 3, 2, 3}) EXPECT_EQ(Next(frequency, {0, 0, 3.5, 4}), expected);
}

TEST_F(SamplerTest, MinPOfOneAndTopKOfOneTakeALikeliestToken) {
  const bool holds = rc::check("as greedy, up to ties", [&] {
    const auto vocab = *rc::gen::inRange<int64_t>(1, 300);
    const std::vector<float> logits = RandomLogits(vocab);
    SamplingOptions options;
    Sampler greedy = Make(options, {}, vocab);
    const int32_t likeliest = Next(greedy, logits);
    options.temperature = *rc::gen::element(0.1, 1.0, 7.0);
    options.seed = *rc::gen::arbitrary<uint64_t>();
    options.min_p = 1;
    Sampler min_p = Make(options, {}, vocab);
    RC_ASSERT(logits[static_cast<size_t>(Next(min_p, logits))] == logits[static_cast<size_t>(likeliest)]);
    options.min_p = 0;
    options.top_k = 1;
    Sampler top_k = Make(options, {}, vocab);
    RC_ASSERT(Next(top_k, logits) == likeliest);
  });
  EXPECT_TRUE(holds);
}

TEST_F(SamplerTest, BannedTokensAreNeverDrawn) {
  const bool holds = rc::check("a bias of -inf bans", [&] {
    const auto vocab = *rc::gen::inRange<int64_t>(2, 30);
    SamplingOptions options;
    options.temperature = *rc::gen::element(0.0, 1.0, 1e300);
    options.repetition_penalty = 0.5;
    options.frequency_penalty = -2;
    options.seed = *rc::gen::arbitrary<uint64_t>();
    for (const int32_t token : RandomTokens(vocab)) options.logit_bias[token] = -kInfinity;
    const std::vector<int32_t> prompt = RandomTokens(vocab);
    RC_PRE(std::ssize(options.logit_bias) < vocab);
    Sampler sampler = Make(options, prompt, vocab);
    for (int i = 0; i < 20; ++i) RC_ASSERT(!options.logit_bias.contains(Next(sampler, RandomLogits(vocab))));
  });
  EXPECT_TRUE(holds);
}

TEST_F(SamplerTest, BansThatLeaveNothingAreAnError) {
  SamplingOptions options;
  options.logit_bias = {{0, -kInfinity}, {1, -kInfinity}, {2, -kInfinity}};
  Sampler sampler = Make(options);
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Next(sampler, {3, 2, 1, 0}), 3);
  EXPECT_THROW(Next(sampler, {3, 2, 1, -inf}), InputError);
  options.logit_bias[3] = -kInfinity;
  EXPECT_THROW(Make(options), InputError);
}

TEST_F(SamplerTest, ErrorsNameOptionAndValue) {
  const double nan = std::nan("");
  struct Case {
    const char* option;
    std::string value;
    std::function<void(SamplingOptions&)> set;
  };
  const std::vector<Case> cases = {
      {"temperature", "nan", [&](auto& o) { o.temperature = nan; }},
      {"temperature", "-0.5", [](auto& o) { o.temperature = -0.5; }},
      {"temperature", "inf", [](auto& o) { o.temperature = kInfinity; }},
      {"top-k", "-1", [](auto& o) { o.top_k = -1; }},
      {"top-p", "0", [](auto& o) { o.top_p = 0; }},
      {"top-p", "1.5", [](auto& o) { o.top_p = 1.5; }},
      {"top-p", "nan", [&](auto& o) { o.top_p = nan; }},
      {"min-p", "1.25", [](auto& o) { o.min_p = 1.25; }},
      {"min-p", "-0.25", [](auto& o) { o.min_p = -0.25; }},
      {"min-p", "nan", [&](auto& o) { o.min_p = nan; }},
      {"repetition penalty", "0", [](auto& o) { o.repetition_penalty = 0; }},
      {"repetition penalty", "inf", [](auto& o) { o.repetition_penalty = kInfinity; }},
      {"presence penalty", "2.5", [](auto& o) { o.presence_penalty = 2.5; }},
      {"frequency penalty", "-3", [](auto& o) { o.frequency_penalty = -3; }},
      {"frequency penalty", "nan", [&](auto& o) { o.frequency_penalty = nan; }},
      {"logit bias: token 10", "0 to 9", [](auto& o) { o.logit_bias[10] = 1; }},
      {"logit bias: token -1", "0 to 9", [](auto& o) { o.logit_bias[-1] = 1; }},
      {"logit bias: that of token 3", "101", [](auto& o) { o.logit_bias[3] = 101; }},
      {"logit bias: that of token 3", "inf", [](auto& o) { o.logit_bias[3] = kInfinity; }},
      {"logit bias: that of token 3", "nan", [&](auto& o) { o.logit_bias[3] = nan; }},
      {"max-tokens", "-5", [](auto& o) { o.max_tokens = -5; }},
      {"logprobs", "21", [](auto& o) { o.logprobs = 21; }},
      {"logprobs", "-1", [](auto& o) { o.logprobs = -1; }},
  };
  CheckSamplingOptions({}, 10);
  for (const Case& c : cases) {
    SamplingOptions options;
    c.set(options);
    try {
      CheckSamplingOptions(options, 10);
      ADD_FAILURE() << c.option << " " << c.value << " was taken";
    } catch (const InputError& error) {
      EXPECT_THAT(error.what(), testing::StartsWith(c.option));
      EXPECT_THAT(error.what(), testing::HasSubstr(c.value));
    }
  }
}

TEST_F(SamplerTest, LogprobsAreTheWholeDistribution) {
  std::vector<float> logits = {1, 3, -std::numeric_limits<float>::infinity(), 3, 0.5f};
  const TensorView view = TensorView::Of(logits.data(), {5});
  const PlaceLogprobs all = LogprobsOf(*ops_, view, 4, SamplingOptions::kMaxLogprobs);
  EXPECT_EQ(all.chosen.token, 4);
  std::vector<int32_t> order;
  double sum = 0;
  for (const TokenLogprob& token : all.likeliest) {
    order.push_back(token.token);
    sum += std::exp(static_cast<double>(token.logprob));
  }
  EXPECT_EQ(order, (std::vector<int32_t>{1, 3, 0, 4, 2})) << "ties to the lower id";
  EXPECT_NEAR(sum, 1, 1e-6);
  EXPECT_EQ(all.chosen.logprob, all.likeliest[3].logprob);
  EXPECT_NEAR(all.chosen.logprob - all.likeliest[2].logprob, -0.5, 1e-6) << "natural logarithms";
  EXPECT_TRUE(LogprobsOf(*ops_, view, 4, 0).likeliest.empty());
}

}  // namespace
}  // namespace sluice
