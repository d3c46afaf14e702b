// The attention half of a block: x_out = x + W_o · DsaAttention(RmsNorm(x)), and the gate in front.
#pragma once

#include <vector>

#include "model/config.h"
#include "model/pass.h"
#include "model/weights.h"
#include "ops/key_codes.h"

namespace sluice {

// One gate's outputs for the tokens of a pass, shared by the `gate.every` layers it serves; and in
// training the gradients that those layers add up for it.
struct GateSaved {
  TensorView normed;      // [tokens, hidden]: the MLP's input
  TensorView hidden_pre;  // [tokens, gate hidden]
  TensorView hidden;      // [tokens, gate hidden], after SiLU
  TensorView out;         // [tokens, gate output]
  TensorView gq;          // [tokens, gate heads, gate head_dim], a view into out
  TensorView gk_raw;      // [tokens, gate head_dim], a view into out
  TensorView gw;          // [tokens, gate heads], a view into out
  TensorView gk;          // [tokens, gate head_dim], after the convolution
  GateKeyView keys;       // Packed gk, of the cache or of the pass; absent in dense training
  TensorView candidates;  // i32 [tokens, width]; absent in dense mode
  GateTreeSearch search;  // How they were found.
  TensorView scores;      // [tokens, width], of the candidates; sparse, in training, with a bias or adaptive
  TensorView threshold;   // [tokens]; training, sparse
  TensorView dscores;     // [tokens, width]; training, sparse
  TensorView dgq, dgw, dgk;  // Contiguous, summed over layers; training, dense, distillation
  TensorView far_scores;     // [tokens, far keys]; training, dense, with a bias
  TensorView dfar_scores;    // The same shape, summed over layers
};

struct AttentionSaved {
  AttentionInputs in;  // Of all rows, as one document without a cache.
  TensorView x, normed, q_raw, k_raw, out, lse;
  TensorView target, mass;  // Sparse distillation.
};

// Mean over the pass's tokens of the distillation loss, and how many layers have added to it.
struct GateLoss {
  double sum = 0;
  int64_t layers = 0;
};

struct AttentionLayer {
  const ModelConfig& config;
  const LayerWeights& weights;
  int64_t layer;
  KeyCodebook key_codebook = {};  // For passes over a cache.
};

// gates[i] is the gate of segment i. `saved` present: training, one segment without a cache; absent: nothing
// is kept for a backward pass, and segments with a cache append to it. x_out may not alias x. Scratch of all
// rows comes from `arena`.
void AttentionForward(Ops& ops, Arena& arena, const AttentionLayer& layer, const TokenBatch& batch,
                      std::span<const PassSegment> segments, const TensorView& x, std::span<GateSaved> gates,
                      AttentionSaved* saved, GateLoss* gate_loss, const TensorView& x_out);

// dx: on entry the gradient of x_out, on return that of x. `dweights` accumulates.
void AttentionBackward(Ops& ops, Arena& arena, const AttentionLayer& layer, const TokenBatch& batch,
                       const PassOptions& options, const LayerWeights& dweights, GateSaved& gate,
                       const AttentionSaved& saved, const TensorView& dx);

}  // namespace sluice
