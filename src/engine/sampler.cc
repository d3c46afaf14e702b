#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "engine/speculation.h"

namespace sluice {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kMaxBias = 100;  // These limits are those of OpenAI's API.
constexpr double kMaxAdditivePenalty = 2;
constexpr double kMaxRepetitionPenalty = 100;

void CheckRange(const char* option, double value, double low, double high) {
  if (!(value >= low && value <= high))
    throw InputError("{} must be from {} to {}, not {}", option, low, high, value);
}

void CheckLogitBias(const std::map<int32_t, double>& logit_bias, int64_t vocab_size) {
  int64_t num_banned = 0;
  for (const auto& [token, bias] : logit_bias) {
    if (token < 0 || token >= vocab_size) {
      throw InputError("logit bias: token {} is outside the vocabulary; its ids are 0 to {}", token,
                       vocab_size - 1);
    }
    if (!(std::abs(bias) <= kMaxBias || bias == -kInfinity)) {
      throw InputError("logit bias: that of token {} must be from {} to {}, or -inf to ban it, not {}", token,
                       -kMaxBias, kMaxBias, bias);
    }
    if (bias == -kInfinity) ++num_banned;
  }
  if (num_banned == vocab_size) {
    throw InputError("logit bias: all {} tokens are banned by -inf; leave one that can be chosen",
                     vocab_size);
  }
}

}  // namespace

void CheckSamplingOptions(const SamplingOptions& options, int64_t vocab_size) {
  if (!(options.temperature >= 0 && options.temperature < kInfinity)) {
    throw InputError("temperature must be finite and at least 0, which takes the likeliest token, not {}",
                     options.temperature);
  }
  if (options.top_k < 0)
    throw InputError("top-k must be at least 0, which keeps all tokens, not {}", options.top_k);
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    throw InputError("top-p must be above 0 and at most 1, not {}", options.top_p);
  }
  CheckRange("min-p", options.min_p, 0, 1);
  CheckRange("repetition penalty", options.repetition_penalty, 1 / kMaxRepetitionPenalty,
             kMaxRepetitionPenalty);
  CheckRange("presence penalty", options.presence_penalty, -kMaxAdditivePenalty, kMaxAdditivePenalty);
  CheckRange("frequency penalty", options.frequency_penalty, -kMaxAdditivePenalty, kMaxAdditivePenalty);
  CheckLogitBias(options.logit_bias, vocab_size);
  if (options.max_tokens < 0) throw InputError("max-tokens must not be negative, not {}", options.max_tokens);
  if (options.max_draft < 0 || options.max_draft > Speculation::kMaxDraft) {
    throw InputError("the tokens drafted ahead must be from 0, for none, to {}, not {}",
                     Speculation::kMaxDraft, options.max_draft);
  }
  if (options.logprobs && (*options.logprobs < 0 || *options.logprobs > SamplingOptions::kMaxLogprobs)) {
    throw InputError("logprobs must be from 0 to {}, the number of likeliest tokens to list, not {}",
                     SamplingOptions::kMaxLogprobs, *options.logprobs);
  }
}

PlaceLogprobs LogprobsOf(Ops& ops, const TensorView& logits, int32_t token, int64_t count) {
  const int64_t vocab = logits.dim(0);
  const auto logprob = [&](int32_t of) {
    float loss = 0;
    ops.CrossEntropy({logits.Reshape({1, vocab}), TensorView::Of(&of, {1}), TensorView::Of(&loss, {1})});
    return TokenLogprob{of, -loss};
  };
  std::vector<int32_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  const float* x = logits.data<float>();
  const auto end = order.begin() + std::min(count, vocab);
  std::partial_sort(order.begin(), end, order.end(),
                    [&](int32_t a, int32_t b) { return x[a] != x[b] ? x[a] > x[b] : a < b; });
  PlaceLogprobs place{logprob(token), {}};
  std::transform(order.begin(), end, std::back_inserter(place.likeliest), logprob);
  return place;
}

Sampler::Sampler(Ops& ops, const SamplingOptions& options, std::span<const int32_t> prompt,
                 int64_t vocab_size)
    : ops_(ops),
      options_(options),
      random_(options.seed),
      adjusted_(DType::kF32, {vocab_size}),
      times_generated_(static_cast<size_t>(vocab_size)),
      is_seen_(static_cast<size_t>(vocab_size)) {
  CheckSamplingOptions(options, vocab_size);
  if (options.repetition_penalty == 1) return;
  for (const int32_t token : prompt) MarkSeen(token);
}

void Sampler::MarkSeen(int32_t token) {
  if (is_seen_[static_cast<size_t>(token)]) return;
  is_seen_[static_cast<size_t>(token)] = true;
  seen_.push_back(token);
}

TensorView Sampler::Adjust(const TensorView& logits) {
  const bool penalises =
      options_.repetition_penalty != 1 || options_.presence_penalty != 0 || options_.frequency_penalty != 0;
  if (options_.logit_bias.empty() && !(penalises && !seen_.empty())) return logits;
  float* x = adjusted_.view().data<float>();
  std::memcpy(x, logits.data<float>(), static_cast<size_t>(logits.dim(0)) * sizeof(float));
  for (const auto& [token, bias] : options_.logit_bias) x[token] += static_cast<float>(bias);
  if (!penalises) return adjusted_;
  for (const int32_t token : seen_) {
    double value = x[token];
    value = value > 0 ? value / options_.repetition_penalty : value * options_.repetition_penalty;
    const int32_t times = times_generated_[static_cast<size_t>(token)];
    value -= options_.frequency_penalty * times + (times > 0 ? options_.presence_penalty : 0);
    x[token] = static_cast<float>(value);
  }
  return adjusted_;
}

int32_t Sampler::Next(const TensorView& logits) {
  int32_t token = 0;
  SampleArgs args;
  args.logits = Adjust(logits);
  args.temperature = options_.temperature;
  args.top_k = options_.top_k;
  args.top_p = options_.top_p;
  args.min_p = options_.min_p;
  args.uniform = random_.Uniform();
  args.token = &token;
  ops_.Sample(args);
  ++times_generated_[static_cast<size_t>(token)];
  MarkSeen(token);
  return token;
}

}  // namespace sluice
