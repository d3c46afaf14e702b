// The weights table: every parameter of a model, its name in the checkpoint, its shape, how it starts
// and how it is optimised, declared once. All parameters in floats lie in one contiguous buffer, in table
// order, so gradients and optimiser moments are buffers of the same layout. Quantised matrices are not part
// of it: a model that has any is for inference.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/random.h"
#include "model/config.h"
#include "model/input_squares.h"
#include "ops/quantized_matrix.h"
#include "tensor/tensor.h"

namespace sluice {

// The embedding, which is the output head too.
inline constexpr const char* kEmbeddingName = "model.embed_tokens.weight";

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
  bool is_matrix;     // Multiplied with activations, or the embedding: may have another format.
  WeightFormat format;
  int64_t offset;  // In elements, from the start of the buffer; -1: quantised, not in the buffer.

  // Whether this parameter can have the format: a matrix, whose rows are whole blocks if it has any.
  bool CanHave(WeightFormat wanted) const {
    if (wanted == WeightFormat::kFloat) return true;
    return is_matrix && (!HasBlocks(wanted) || shape[shape.rank() - 1] % QuantizedMatrix::kBlock == 0);
  }
  int64_t num_experts() const { return shape.rank() == 3 ? shape[0] : 1; }
  // [out, in], or the same rows of all experts: [experts · out, in].
  Shape RowShape() const {
    const int64_t in = shape[shape.rank() - 1];
    return {shape.num_elements() / in, in};
  }
  // As QuantizedMatrixBuffer::Pack wants it.
  int64_t NumStacked() const;
  // In memory, of a model in float32.
  int64_t num_bytes() const;
};

// A matrix [out, in], or one for each expert, in its format: one of the two is present.
struct MatrixWeights {
  TensorView floats;  // [out, in] or [experts, out, in]
  QuantizedMatrix quantized;
  InputSquares* inputs = nullptr;  // Takes what is multiplied with it; null: nobody does.
};
using QuantizedWeights = std::map<std::string, QuantizedMatrixBuffer>;  // By parameter.

struct GateWeights {
  MatrixWeights w1;  // [gate hidden, hidden]
  MatrixWeights w2;  // [gate output, gate hidden]
  TensorView conv;   // [gate head_dim, conv width]
};

struct LayerWeights {
  TensorView attention_norm;     // [hidden]
  MatrixWeights wq;              // [heads * head_dim, hidden]
  MatrixWeights wk;              // [kv_heads * head_dim, hidden]
  MatrixWeights wv;              // [kv_heads * head_dim, hidden]
  MatrixWeights wo;              // [hidden, heads * head_dim]
  TensorView q_norm;             // [head_dim]
  TensorView k_norm;             // [head_dim]
  TensorView sink_logit;         // [heads]
  TensorView gate_bias;          // [heads]: FarBias's weight; present where config.gate.bias
  GateWeights gate;              // Present where config.HasGate(layer).
  TensorView ffn_norm;           // [hidden]
  TensorView router;             // [experts, hidden]
  TensorView router_bias;        // [experts]
  MatrixWeights expert_gate_up;  // [experts, 2 * intermediate, hidden]
  MatrixWeights expert_down;     // [experts, hidden, intermediate]
  MatrixWeights shared_gate_up;  // [2 * shared intermediate, hidden]; present where there is a shared expert
  MatrixWeights shared_down;     // [hidden, shared intermediate]; likewise
};

struct ModelWeights {
  MatrixWeights embedding;    // [vocab, hidden]; also the output head (tied)
  TensorView embedding_norm;  // [hidden]
  TensorView embedding_conv;  // [hidden, embedding conv width]
  std::vector<LayerWeights> layers;
  TensorView final_norm;  // [hidden]
};

class WeightsTable {
 public:
  // REQUIRES: what config.quantization names are parameters that can be quantised (CheckQuantization).
  explicit WeightsTable(const ModelConfig& config);

  const std::vector<ParameterInfo>& parameters() const { return parameters_; }
  // Of the buffer.
  int64_t num_elements() const { return num_elements_; }
  // Parameters in any format that one token passes through (chosen and shared experts only).
  int64_t num_active_elements() const;

  // The parameter's view into a buffer of num_elements() elements. REQUIRES: it is in floats.
  TensorView View(const ParameterInfo& parameter, const TensorView& buffer) const;
  // `inputs`: where it is not null, gets an entry for each matrix, which its products fill.
  // REQUIRES: `quantized` has every parameter of such a format.
  ModelWeights Bind(const TensorView& buffer, const QuantizedWeights& quantized = {},
                    InputSquaresByName* inputs = nullptr) const;
  // Fills a buffer with starting values: a pure function of the seed.
  void Initialize(const TensorView& buffer, uint64_t seed) const;

 private:
  void Declare(std::string name, Shape shape, ParameterKind kind, double init_std, double init_mean = 0,
               double init_decay = 1, bool is_matrix = false);
  void DeclareMatrix(std::string name, Shape shape, ParameterKind kind, double init_std);
  const ParameterInfo& Find(const std::string& name) const;
  void InitializeParameter(size_t index, const TensorView& buffer, uint64_t seed) const;

  ModelConfig config_;
  std::vector<ParameterInfo> parameters_;
  int64_t num_elements_ = 0;
};

// Throws InputError, with `where` in front, if config.quantization names what is no parameter of the model or
// cannot be quantised.
void CheckQuantization(const ModelConfig& config, const std::string& where);

}  // namespace sluice
