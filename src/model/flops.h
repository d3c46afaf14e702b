// What attention costs, counted the same way wherever figures are shown. One multiply and one add are
// two operations; exponentials and the projections, which sparse and full attention share, are not
// counted.
//   attending to one key, all heads:  q·k and p·v     = 4 · heads · head_dim          (float)
//   scoring one key with a gate:      gq·gk per head  = 2 · gate heads · gate head_dim (int8)
//   a gate's MLP and convolution, per token           = 2 · (hidden · gate hidden + gate hidden · gate
//                                                       output + gate head_dim · conv width) (float)
// Full attention of a token at position p reads p + 1 keys in every layer.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "ops/key_rows.h"

namespace sluice {

inline double AttentionFlopsPerKey(const ModelConfig& config) {
  return 4.0 * static_cast<double>(config.num_heads * config.head_dim);
}

inline double GateScanFlopsPerKey(const ModelConfig& config) {
  return 2.0 * static_cast<double>(config.gate.num_heads * config.gate.head_dim);
}

inline double GateFlopsPerToken(const ModelConfig& config) {
  const GateConfig& gate = config.gate;
  return 2.0 * static_cast<double>(config.hidden_size * gate.hidden_size +
                                   gate.hidden_size * gate.output_size() + gate.head_dim * gate.conv_width);
}

// Matrix products and attention of one training step, per token: forward and twice that for the
// gradients, over the parameters that a token passes through (the tied table counts once, as the head)
// and over `keys` attended to on average. Recomputed logits, the gate's distillation and the optimiser
// are work too, but not counted: they are overhead.
inline double TrainingFlopsPerToken(const ModelConfig& config, int64_t active_parameters, double keys) {
  return 6.0 * static_cast<double>(active_parameters) +
         3.0 * AttentionFlopsPerKey(config) * keys * static_cast<double>(config.num_layers);
}

// Bytes of keys and values of one token in all layers, with `kv_heads` heads in this format (ops/key_rows.h).
inline double KvBytesPerToken(const ModelConfig& config, int64_t kv_heads, DType format) {
  return static_cast<double>(2 * config.num_layers * KeyRowBytes(format, kv_heads, config.head_dim));
}

// Bytes of one token in the gates' index, without trees: int8 codes and a float16 scale per gate, and its
// share of the convolution's state, kept every 64 tokens.
inline double GateIndexBytesPerToken(const ModelConfig& config) {
  const auto size = static_cast<double>(config.gate.head_dim);
  const double state = 4.0 * size * static_cast<double>(config.gate.conv_width - 1) / 64.0;
  return static_cast<double>(config.num_gates()) * (size + 2.0 + state);
}

}  // namespace sluice
