// The shape of a model: what config.json holds. Names follow Hugging Face where it has one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ops/quantized_matrix.h"
#include "ops/router.h"

namespace sluice {

// The gate of dynamic sparse attention (ops/gate.h).
struct GateConfig {
  int64_t hidden_size = 128;
  int64_t num_heads = 4;
  int64_t head_dim = 32;
  int64_t conv_width = 4;
  int64_t every = 1;  // Layers that share one gate; the first of them computes the selection.
  bool bias = true;   // The score takes part in the attention it selects for (FarBias, ops/attention.h).

  // Columns of the gate MLP's output: queries, raw keys, head weights.
  int64_t output_size() const { return num_heads * head_dim + head_dim + num_heads; }
};

struct MoeConfig {
  int64_t num_experts = 8;
  int64_t experts_per_token = 2;
  int64_t intermediate_size = 128;
  int64_t shared_intermediate_size = 128;  // 0: no shared expert.
  RouterScores router_scores = RouterScores::kSigmoid;
};

struct ModelConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 256;
  int64_t num_layers = 6;
  int64_t num_heads = 8;
  int64_t num_kv_heads = 1;
  int64_t head_dim = 32;
  int64_t context_length = 131072;
  // Width of the causal depthwise convolution that adds the newest tokens' embeddings to a token's own.
  int64_t embedding_conv_width = 4;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  // Queries with more keys than this behind them are scaled up (ops/length_scale.h).
  int64_t logn_length = 1024;
  int64_t window = 128;
  int64_t num_sinks = 4;
  int64_t top_k = 128;
  GateConfig gate;
  MoeConfig moe;
  // Names of the profiles in the model's folder, sorted (model/router_profile.h).
  std::vector<std::string> router_profiles;
  // Formats of parameters by name (docs/formats/weights.md); those that it does not name are kFloat.
  std::map<std::string, WeightFormat> quantization;

  WeightFormat FormatOf(const std::string& parameter) const {
    const auto found = quantization.find(parameter);
    return found == quantization.end() ? WeightFormat::kFloat : found->second;
  }
  bool HasGate(int64_t layer) const { return layer % gate.every == 0; }
  int64_t GateOf(int64_t layer) const { return layer / gate.every; }  // Index among the gates.
  int64_t num_gates() const { return (num_layers + gate.every - 1) / gate.every; }

  // Throws InputError, with `where` in front, for a size that is missing, not positive or does not
  // fit the others.
  void Validate(const std::string& where) const;
};

// REQUIRES: an object with every key that ToJson writes (router_profiles and quantization may be
// absent), else InputError
// naming `where` and the key.
// Unknown keys are errors too: a typing mistake must not silently become a default.
ModelConfig ModelConfigFromJson(const nlohmann::ordered_json& json, const std::string& where);
nlohmann::ordered_json ToJson(const ModelConfig& config);

// config.json of a model folder.
ModelConfig ReadModelConfig(const std::filesystem::path& file);
// Writes it as a whole or not at all. Throws SystemError when the disk refuses.
void WriteModelConfig(const std::filesystem::path& file, const ModelConfig& config);

}  // namespace sluice
