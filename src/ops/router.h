// The capacity-aware router. p = sigmoid(logits), or softmax(logits) over the experts (the rule of Mixtral
// and Switch, for comparison); a token's choices are the K experts of largest p + bias, ties to the lower
// index; gate_i = p_i / Σ_served p.
//
// Dynamic capacity (training): tokens are walked position-major in blocks of 64 positions across
// sequences. With D_i the demand (choices, before overflow) for expert i and T tokens of the blocks
// before this one, and T' the tokens up to and with this block,
//   rho_i = (n0 K/E + D_i) / ((n0 + T) K/E);  gamma_i = clip(cf · rho_i, 1, gamma_max)
//   C_i = ceil(gamma_i K T' / E)
// limit how many tokens expert i may have served by the end of the block. Inside a block tokens are
// served by position, then by sequence. A token whose choice is full tries its next choices by
// p + bias, 2K in all: it is served by the first K of these 2K (or E, if fewer) that have room; without
// rerouting, by those of its K choices that have room. Slots that find no room stay unserved (-1), come
// last, and the shared expert alone serves them. No token's routing depends on a later position.
//
// Fixed capacity (Switch, for comparison): C_i = ceil(cf K T / E) of the whole batch's T tokens.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tensor/tensor.h"

namespace sluice {

enum class RouterScores { kSigmoid, kSoftmax };

enum class CapacityRule { kNone, kDynamic, kFixed };

struct RouterCapacity {
  CapacityRule rule = CapacityRule::kNone;
  double factor = 1.25;      // cf
  double prior_tokens = 64;  // n0; dynamic
  double gamma_max = 2.0;    // Dynamic.
  bool reroutes = true;      // Overflow tries its next choices.
  static constexpr int64_t kBlockPositions = 64;

  bool limits() const { return rule != CapacityRule::kNone; }
  // Experts that a token may try.
  int64_t NumTries(int64_t k, int64_t e) const { return reroutes ? std::min(2 * k, e) : k; }
  // C_i of the formulas above, the same in every backend. `demand` is D_i, `tokens_before` T,
  // `tokens_with_block` T', `all_tokens` those of the batch; k and e are K and E.
  int64_t Limit(int64_t k, int64_t e, int64_t demand, int64_t tokens_before, int64_t tokens_with_block,
                int64_t all_tokens) const {
    const double share = static_cast<double>(k) / static_cast<double>(e);
    if (rule == CapacityRule::kFixed) {
      return static_cast<int64_t>(std::ceil(factor * share * static_cast<double>(all_tokens)));
    }
    const double rho = (prior_tokens * share + static_cast<double>(demand)) /
                       ((prior_tokens + static_cast<double>(tokens_before)) * share);
    const double gamma = std::min(std::max(factor * rho, 1.0), gamma_max);
    return static_cast<int64_t>(std::ceil(gamma * share * static_cast<double>(tokens_with_block)));
  }
};

struct RouterArgs {
  TensorView logits;  // [tokens, experts]; NaN: InputError
  TensorView bias;    // [experts]
  int64_t experts_per_token = 2;
  RouterScores scores = RouterScores::kSigmoid;
  RouterCapacity capacity;
  // Tokens are [sequences, sequence_length] flattened; used by capacity alone.
  int64_t sequence_length = 0;
  TensorView probs;    // [tokens, experts]
  TensorView choices;  // i32 [tokens, K]: before capacity, by falling p + bias
  TensorView experts;  // i32 [tokens, K]: served, -1 where unserved
  TensorView gates;    // [tokens, K]: 0 where unserved
};

// Weights of the router's losses:
//   balance · (E Σ_i f_i P_i − 1)            f_i = share of all choices, P_i = mean_t p_i / Σ_j p_j
//   sequence_balance · mean over sequences of the same
//   z · mean_t logsumexp(logits[t])²
// f is a constant for the gradient.
struct RouterLossWeights {
  double balance = 0;
  double sequence_balance = 0;
  double z = 0;
};

struct RouterLossArgs {
  TensorView logits;
  TensorView probs;
  TensorView choices;
  int64_t sequence_length = 0;
  double* balance = nullptr;  // Each without its weight.
  double* sequence_balance = nullptr;
  double* z = nullptr;
};

struct RouterGradArgs {
  TensorView logits;
  TensorView probs;
  TensorView choices;
  TensorView experts;
  TensorView gates;
  RouterScores scores = RouterScores::kSigmoid;
  int64_t sequence_length = 0;
  TensorView dgates;  // [tokens, K]; entries of unserved slots are ignored
  RouterLossWeights weights;
  TensorView dlogits;  // [tokens, experts], overwritten
};

// Quantile balancing's counts: with a_t the (K+1)-th largest of p_t + bias, counts[i, bin] of
// p_i − a_t, bins equal on [-2, 2), the ends clamped. K = E: a_t is the smallest.
struct RouterHistogramArgs {
  TensorView probs;  // [tokens, experts]
  TensorView bias;   // [experts]
  int64_t experts_per_token = 2;
  TensorView counts_acc;  // i32 [experts, bins]
};

}  // namespace sluice
