// Attention of each query over window ∪ sinks ∪ selected keys, and its straight-through gradient.
//
// Forward (the hard output): one softmax over window, sinks and the selection S, exp(sink_logit) in
// the denominator. A hard choice has no gradient, so training differentiates a surrogate over the
// candidates C ⊇ S (window and sinks have m = 1):
//   m_j = sigmoid((score_j − threshold) / temperature)
//   õ   = Σ m_j e^{l_j} v_j / (Σ m_j e^{l_j} + e^{sink_logit})
// and output = õ + stop_gradient(o_hard − õ). Hence, with p̃_j = m_j e^{l_j} / denominator per head,
//   ∂L/∂score_j = Σ_h (1/T)(1 − m_j) p̃_{h,j} ⟨∂L/∂o_h, v_j − õ_h⟩
// and q, k, v and sink_logit take the ordinary gradients of õ. A threshold of −infinity means m = 1.
#pragma once

#include "ops/attention.h"
#include "tensor/tensor.h"

namespace sluice {

// What the surrogate needs beside the candidates. Absent scores: m = 1 for every candidate.
struct SurrogateGate {
  TensorView scores;     // [tokens, width]
  TensorView threshold;  // [tokens], a constant
  double temperature = 1;
};

struct SparseAttentionArgs {
  AttentionInputs in;
  // i32 [tokens, width]: far keys of each query, -1 where absent, no key twice.
  TensorView candidates;
  int64_t num_selected = 0;  // Columns [0, num_selected) are the selection S.
  TensorView out;            // [tokens, query_heads, head_size]: the hard output, over S
  // For distillation (GateKl): the softmax over window, sinks, sink logit and all of C, restricted to
  // C, summed over heads and L1-normalised; and its sum before normalising, mean over heads.
  TensorView gate_target;  // [tokens, width]; 0 where absent; the view absent: not wanted
  TensorView gate_mass;    // [tokens]; absent: not wanted
};

// õ itself: what the gradient below is the gradient of. For tests.
struct SurrogateAttentionArgs {
  AttentionInputs in;
  TensorView candidates;
  SurrogateGate gate;
  TensorView out;
};

// REQUIRES: query_offset = 0, k_rot_begin = 0, as many keys as tokens, k and v of the real type, unpaged.
struct SparseAttentionGradArgs {
  AttentionInputs in;
  TensorView candidates;
  SurrogateGate gate;
  TensorView dout;
  AttentionInputGrads grads;
  TensorView dscores_acc;  // [tokens, width]; REQUIRED where gate.scores is present
};

}  // namespace sluice
