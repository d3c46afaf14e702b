// The gate in front of the key/value cache: its MLP, its selection, its training gradients.
#pragma once

#include "model/attention.h"

namespace sluice {

// The MLP on all rows: gates[i] gets those of segment i, up to gk_raw, and room for gk.
void GateForward(Ops& ops, Arena& arena, const AttentionLayer& layer, const TensorView& normed,
                 std::span<const PassSegment> segments, std::span<GateSaved> gates);

// The convolution: fills gate.gk. In inference packs the keys into the cache.
void GateKeys(Ops& ops, const AttentionLayer& layer, const TokenBatch& batch, const PassSegment& segment,
              GateSaved& gate);

// Fills gate.candidates: the selection, and in training runners-up and random far keys behind it,
// with gate.scores and gate.threshold. Inference has scores only where there is a bias. `training`: a
// backward pass will follow.
void GateSelect(Ops& ops, const AttentionLayer& layer, const PassSegment& segment, const AttentionSpan& span,
                bool training, GateSaved& gate);

// Distillation of one layer's attention into the gate it reads from; adds to gate.dscores (sparse) or
// gate.dgq, dgw, dgk (dense) and to `loss`.
void GateDistil(Ops& ops, Arena& arena, const PassOptions& options, const ModelConfig& config,
                const AttentionSaved& saved, GateSaved& gate, GateLoss& loss);

// Once per gate, after all its layers: the MLP's gradients. dnormed is added to.
void GateBackward(Ops& ops, Arena& arena, const AttentionLayer& layer, const TokenBatch& batch,
                  const PassOptions& options, const AttentionSpan& span, const GateWeights& dweights,
                  const GateSaved& gate, const TensorView& dnormed);

}  // namespace sluice
