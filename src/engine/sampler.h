// Sampling: how one request's tokens are drawn from the model's logits. Every step, in this order:
//
//   1 logit bias           x += bias[token]; -inf bans the token
//   2 repetition penalty   x = x > 0 ? x / penalty : x · penalty, of tokens that prompt or answer have
//                          (CTRL, Keskar et al. 2019; as in Hugging Face's transformers)
//   3 frequency, presence  x -= frequency · (times generated) + presence · (generated at all), as in the API
//                          of OpenAI: tokens of the prompt do not count
//   4 temperature          p = softmax(x / temperature); 0 takes the largest x, and that is all
//   5 top-k, top-p, min-p  cuts, one after the other; renormalise; draw (ops/sampling.h)
//
// Steps 1 to 3 are the sampler's and not the op's: they depend on the tokens of a request, touch a few of the
// logits, and need no kernel; so the op stays a function of one distribution. Of equal logits the lower id
// comes first. The draws are a function of the seed and the number of tokens drawn before, so the same
// logits, options and seed give the same tokens.
//
// Logprobs are natural logarithms of the model's own distribution, softmax of the logits as the model gives
// them, before any of the steps above.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "base/random.h"
#include "ops/ops.h"

namespace sluice {

struct SamplingOptions {
  double temperature = 0;         // 0: always the likeliest token.
  int64_t top_k = 0;              // Of the tokens, not of the gate; 0: all.
  double top_p = 1;               // Above 0, at most 1, which keeps all.
  double min_p = 0;               // 0, which keeps all, to 1, which keeps the likeliest and its equals.
  double repetition_penalty = 1;  // 0.01 to 100; 1: none.
  double presence_penalty = 0;    // -2 to 2.
  double frequency_penalty = 0;   // -2 to 2.
  std::map<int32_t, double> logit_bias{};  // By token: -100 to 100, or -inf.
  uint64_t seed = 0;
  int64_t max_tokens = 256;
  // Speculation (engine/speculation.h): most tokens that are drafted and checked ahead in one pass, 0 to
  // Speculation::kMaxDraft; 0: none. It changes the speed, and neither tokens nor logprobs. Tokens a second
  // with 8 and with none, nano: 1,133 and 944 (six answers about a document of 131,072 tokens, mean of four
  // runs in turns), 1,513 and 1,464 (300 tokens at temperature 0.8 behind a novel, of three).
  int64_t max_draft = 8;
  // Logprobs of every token, and of this many likeliest ones in its place, 0 to kMaxLogprobs; absent: none.
  std::optional<int64_t> logprobs{};

  static constexpr int64_t kMaxLogprobs = 20;
};

// Throws InputError naming the first option out of range and its value; a biased token that is not below
// `vocab_size`; a ban of every token.
void CheckSamplingOptions(const SamplingOptions& options, int64_t vocab_size);

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;  // Natural logarithm, at most 0.
};

// What the model thought of one place of a text.
struct PlaceLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> likeliest;  // Falling, ties to the lower id; `chosen` may be among them.
};

// Of `token` and of the `count` likeliest tokens, or all if there are fewer. A logprob is to the bit the
// negative of what Session::AppendScored gives.
PlaceLogprobs LogprobsOf(Ops& ops, const TensorView& logits, int32_t token, int64_t count);

// The state of one request's sampling: its random numbers and the tokens that its penalties count.
class Sampler {
 public:
  // `ops` outlives the sampler; `prompt` is all that precedes the first sampled token. Throws InputError as
  // CheckSamplingOptions does.
  Sampler(Ops& ops, const SamplingOptions& options, std::span<const int32_t> prompt, int64_t vocab_size);

  // Steps 1 to 3: a copy, valid until the next call, or `logits` itself where nothing changes them. [vocab]
  TensorView Adjust(const TensorView& logits);
  // All steps: draws a token, which counts as generated from now on. `logits` stay as they are. Throws
  // InputError for logits that are no distribution, or that bans leave nothing of.
  int32_t Next(const TensorView& logits);

 private:
  void MarkSeen(int32_t token);

  Ops& ops_;
  SamplingOptions options_;
  Random random_;
  Buffer adjusted_;                       // [vocab]
  std::vector<int32_t> times_generated_;  // [vocab]
  std::vector<bool> is_seen_;             // [vocab]: is in seen_.
  // Tokens of the answer, and of the prompt where the repetition penalty counts them.
  std::vector<int32_t> seen_;
};

}  // namespace sluice
