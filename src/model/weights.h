// The weights table: every parameter of a model, its name in the checkpoint, its shape, how it starts
// and how it is optimised, declared once. All parameters lie in one contiguous buffer, in table order,
// so gradients and optimiser moments are buffers of the same layout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/random.h"
#include "model/config.h"
#include "tensor/tensor.h"

namespace sluice {

// How the trainer treats a parameter.
enum class ParameterKind {
  kMatrix,  // A hidden matrix (or a stack of them): Muon, or AdamW with weight decay.
  kVector,  // Norms, sinks, convolutions, router, embeddings: AdamW without weight decay.
  kGate,    // A gate's matrices and convolution: as kVector, at a rate of its own.
  kBuffer,  // The router's selection bias: no gradient, set by quantile balancing.
};

struct ParameterInfo {
  std::string name;  // As in model.safetensors.
  Shape shape;
  ParameterKind kind;
  double init_std;  // Normal around init_mean; 0: the constant init_mean.
  double init_mean;
  double init_decay;  // Factor of init_std for every column further from the last one.
  int64_t offset;     // In elements, from the start of the buffer.
};

struct GateWeights {
  TensorView w1;    // [gate hidden, hidden]
  TensorView w2;    // [gate output, gate hidden]
  TensorView conv;  // [gate head_dim, conv width]
};

struct LayerWeights {
  TensorView attention_norm;  // [hidden]
  TensorView wq;              // [heads * head_dim, hidden]
  TensorView wk;              // [kv_heads * head_dim, hidden]
  TensorView wv;              // [kv_heads * head_dim, hidden]
  TensorView wo;              // [hidden, heads * head_dim]
  TensorView q_norm;          // [head_dim]
  TensorView k_norm;          // [head_dim]
  TensorView sink_logit;      // [heads]
  TensorView gate_bias;       // [heads]: FarBias's weight; present where config.gate.bias
  GateWeights gate;           // Present where config.HasGate(layer).
  TensorView ffn_norm;        // [hidden]
  TensorView router;          // [experts, hidden]
  TensorView router_bias;     // [experts]
  TensorView expert_gate_up;  // [experts, 2 * intermediate, hidden]
  TensorView expert_down;     // [experts, hidden, intermediate]
  TensorView shared_gate_up;  // [2 * shared intermediate, hidden]
  TensorView shared_down;     // [hidden, shared intermediate]
};

struct ModelWeights {
  TensorView embedding;       // [vocab, hidden]; also the output head (tied)
  TensorView embedding_norm;  // [hidden]
  TensorView embedding_conv;  // [hidden, embedding conv width]
  std::vector<LayerWeights> layers;
  TensorView final_norm;  // [hidden]
};

class WeightsTable {
 public:
  explicit WeightsTable(const ModelConfig& config);

  const std::vector<ParameterInfo>& parameters() const { return parameters_; }
  int64_t num_elements() const { return num_elements_; }
  // Parameters that one token passes through (chosen and shared experts only).
  int64_t num_active_elements() const;

  // The parameter's view into a buffer of num_elements() elements.
  TensorView View(const ParameterInfo& parameter, const TensorView& buffer) const;
  ModelWeights Bind(const TensorView& buffer) const;
  // Fills a buffer with starting values: a pure function of the seed.
  void Initialize(const TensorView& buffer, uint64_t seed) const;

 private:
  void Declare(std::string name, Shape shape, ParameterKind kind, double init_std, double init_mean = 0,
               double init_decay = 1);
  const ParameterInfo& Find(const std::string& name) const;
  void InitializeParameter(size_t index, const TensorView& buffer, uint64_t seed) const;

  ModelConfig config_;
  std::vector<ParameterInfo> parameters_;
  int64_t num_elements_ = 0;
};

}  // namespace sluice
