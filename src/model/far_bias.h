// The gate's say in attention (FarBias, ops/attention.h) where every far key has one: full attention. Sparse
// attention takes the scores of its candidates from GateSelect.
#pragma once

#include "model/attention.h"

namespace sluice {

// Training: fills gate.far_scores and clears gate.dfar_scores, tokens × longest row's far keys each.
void StartDenseBias(Ops& ops, Arena& arena, const AttentionSpan& span, GateSaved& gate);

// Training: the gate's gradients by far_scores, from gate.dfar_scores; overwrites dgq, dgw and dgk.
void DenseBiasBackward(Ops& ops, const AttentionSpan& span, const GateSaved& gate, const TensorView& dgq,
                       const TensorView& dgw, const TensorView& dgk);

// Inference: full and guaranteed attention with the bias of every far key, by slices of queries so that
// memory stays in bounds. The scores are those of the packed keys, which sparse attention reads too.
void BiasedFullAttention(Ops& ops, Arena& arena, const GateSaved& gate, const AttentionInputs& in,
                         const TensorView& bias_weight, const TensorView& out);
void BiasedGuaranteedAttention(Ops& ops, Arena& arena, const GateSaved& gate, const TensorView& bias_weight,
                               const GuaranteedAttentionArgs& args);

}  // namespace sluice
