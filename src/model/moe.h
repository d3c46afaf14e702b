// The feed-forward half of a block: x_out = x + Shared(n) + Σ_slots gate · Expert(n), n = RmsNorm(x); Shared
// is 0 in a model without a shared expert.
#pragma once

#include "model/config.h"
#include "model/pass.h"
#include "model/weights.h"

namespace sluice {

struct MoeSaved {
  TensorView x, normed, logits, probs;
  TensorView choices, experts;  // i32 [tokens, K]
  TensorView gates;             // [tokens, K]
  TensorView offsets, row_token, token_row;
  // With PassOptions::recompute_experts these are gone after the forward pass and made again in the backward.
  TensorView rows, gate_up, activated, outputs;  // Rows sorted by expert.
  TensorView shared_gate_up, shared_activated;
};

// The router's losses, each unweighted, summed over layers.
struct RouterLosses {
  double balance = 0;
  double sequence_balance = 0;
  double z = 0;
};

// `saved` absent: inference; no capacity. x_out may not alias x.
void MoeForward(Ops& ops, Arena& arena, const ModelConfig& config, const LayerWeights& weights, int64_t layer,
                const TokenBatch& batch, std::span<const PassSegment> segments, const TensorView& x,
                MoeSaved* saved, RouterLosses* losses, const TensorView& x_out);

// dx: on entry the gradient of x_out, on return that of x.
void MoeBackward(Ops& ops, Arena& arena, const ModelConfig& config, const LayerWeights& weights,
                 const TokenBatch& batch, const PassOptions& options, const LayerWeights& dweights,
                 const MoeSaved& forward, const TensorView& dx);

}  // namespace sluice
