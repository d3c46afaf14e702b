#include "model/weights.h"

#include <algorithm>
#include <cmath>

#include "tensor/host.h"

namespace sluice {

namespace {

// With unit norms a logit is at most sqrt(head_dim): too soft to pick one key among thousands.
constexpr double kQueryNormInit = 1.5;
// Below 1: a gate distilled from an attention that it biases would otherwise chase itself.
constexpr double kGateBiasInit = 0.5;
// The older a token, the quieter it starts; all of them together are about as loud as the token itself.
constexpr double kEmbeddingConvInit = 0.6;
constexpr double kEmbeddingConvDecay = 0.8;

std::string LayerName(int64_t layer, const char* rest) {
  return fmt::format("model.layers.{}.{}", layer, rest);
}

}  // namespace

WeightsTable::WeightsTable(const ModelConfig& config) : config_(config) {
  using enum ParameterKind;
  const int64_t hidden = config.hidden_size;
  const int64_t q_size = config.num_heads * config.head_dim;
  const int64_t kv_size = config.num_kv_heads * config.head_dim;
  const auto& moe = config.moe;
  const double in_std = 1.0 / std::sqrt(static_cast<double>(hidden));
  // Outputs into the residual stream start smaller the deeper the model (GPT-2's rule).
  const double residual = 1.0 / std::sqrt(2.0 * static_cast<double>(config.num_layers));
  const auto fan_in = [](int64_t n) { return 1.0 / std::sqrt(static_cast<double>(n)); };

  DeclareMatrix(kEmbeddingName, {config.vocab_size, hidden}, kVector, 0.02);
  Declare("model.embed_norm.weight", {hidden}, kVector, 0, 1);
  Declare("model.embed_conv.weight", {hidden, config.embedding_conv_width}, kVector, kEmbeddingConvInit, 0,
          kEmbeddingConvDecay);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const auto name = [i](const char* rest) { return LayerName(i, rest); };
    Declare(name("input_layernorm.weight"), {hidden}, kVector, 0, 1);
    DeclareMatrix(name("self_attn.q_proj.weight"), {q_size, hidden}, kMatrix, in_std);
    DeclareMatrix(name("self_attn.k_proj.weight"), {kv_size, hidden}, kMatrix, in_std);
    DeclareMatrix(name("self_attn.v_proj.weight"), {kv_size, hidden}, kMatrix, in_std);
    DeclareMatrix(name("self_attn.o_proj.weight"), {hidden, q_size}, kMatrix, fan_in(q_size) * residual);
    Declare(name("self_attn.q_norm.weight"), {config.head_dim}, kVector, 0, kQueryNormInit);
    Declare(name("self_attn.k_norm.weight"), {config.head_dim}, kVector, 0, 1);
    Declare(name("self_attn.sinks"), {config.num_heads}, kVector, 0, 0);
    if (config.gate.bias) Declare(name("self_attn.gate_bias"), {config.num_heads}, kVector, 0, kGateBiasInit);
    if (config.HasGate(i)) {
      const auto& gate = config.gate;
      DeclareMatrix(name("self_attn.gate.w1.weight"), {gate.hidden_size, hidden}, kGate, in_std);
      DeclareMatrix(name("self_attn.gate.w2.weight"), {gate.output_size(), gate.hidden_size}, kGate,
                    fan_in(gate.hidden_size));
      Declare(name("self_attn.gate.conv.weight"), {gate.head_dim, gate.conv_width}, kGate, 0.1,
              1.0 / static_cast<double>(gate.conv_width));
    }
    Declare(name("post_attention_layernorm.weight"), {hidden}, kVector, 0, 1);
    Declare(name("mlp.router.weight"), {moe.num_experts, hidden}, kVector, in_std * 0.5);
    Declare(name("mlp.router.bias"), {moe.num_experts}, kBuffer, 0, 0);
    DeclareMatrix(name("mlp.experts.gate_up_proj"), {moe.num_experts, 2 * moe.intermediate_size, hidden},
                  kMatrix, in_std);
    DeclareMatrix(name("mlp.experts.down_proj"), {moe.num_experts, hidden, moe.intermediate_size}, kMatrix,
                  fan_in(moe.intermediate_size) * residual);
    if (moe.shared_intermediate_size == 0) continue;
    DeclareMatrix(name("mlp.shared_expert.gate_up_proj.weight"), {2 * moe.shared_intermediate_size, hidden},
                  kMatrix, in_std);
    DeclareMatrix(name("mlp.shared_expert.down_proj.weight"), {hidden, moe.shared_intermediate_size}, kMatrix,
                  fan_in(moe.shared_intermediate_size) * residual);
  }
  Declare("model.norm.weight", {hidden}, kVector, 0, 1);
}

void WeightsTable::Declare(std::string name, Shape shape, ParameterKind kind, double init_std,
                           double init_mean, double init_decay, bool is_matrix) {
  const WeightFormat format = config_.FormatOf(name);
  ParameterInfo parameter = {std::move(name), shape,     kind,   init_std, init_mean,
                             init_decay,      is_matrix, format, -1};
  if (format == WeightFormat::kFloat) {
    // Each parameter starts on a cache line of its own.
    constexpr int64_t kAlign = 16;
    num_elements_ = (num_elements_ + kAlign - 1) / kAlign * kAlign;
    parameter.offset = num_elements_;
    num_elements_ += shape.num_elements();
  } else {
    SLUICE_CHECK(parameter.CanHave(format));
  }
  parameters_.push_back(std::move(parameter));
}

void WeightsTable::DeclareMatrix(std::string name, Shape shape, ParameterKind kind, double init_std) {
  Declare(std::move(name), shape, kind, init_std, 0, 1, true);
}

const ParameterInfo& WeightsTable::Find(const std::string& name) const {
  for (const auto& parameter : parameters_) {
    if (parameter.name == name) return parameter;
  }
  throw Bug(fmt::format("no parameter is called {}", name));
}

int64_t WeightsTable::num_active_elements() const {
  int64_t active = 0;
  for (const auto& parameter : parameters_) {
    const int64_t n = parameter.shape.num_elements();
    const bool is_expert = parameter.name.find(".experts.") != std::string::npos;
    active += is_expert ? n / config_.moe.num_experts * config_.moe.experts_per_token : n;
  }
  return active;
}

TensorView WeightsTable::View(const ParameterInfo& parameter, const TensorView& buffer) const {
  SLUICE_CHECK(parameter.format == WeightFormat::kFloat);
  return buffer.Rows(parameter.offset, parameter.offset + parameter.shape.num_elements())
      .Reshape(parameter.shape);
}

ModelWeights WeightsTable::Bind(const TensorView& buffer, const QuantizedWeights& quantized,
                                InputSquaresByName* inputs) const {
  SLUICE_CHECK_EQ(buffer.num_elements(), num_elements_);
  const auto view = [&](const std::string& name) { return View(Find(name), buffer); };
  const auto matrix = [&](const std::string& name) -> MatrixWeights {
    const ParameterInfo& parameter = Find(name);
    MatrixWeights weights;
    if (inputs != nullptr) {
      weights.inputs =
          &inputs->try_emplace(name, parameter.num_experts(), parameter.RowShape()[1]).first->second;
    }
    if (parameter.format == WeightFormat::kFloat) {
      weights.floats = View(parameter, buffer);
    } else if (const auto found = quantized.find(name); found != quantized.end()) {
      weights.quantized = found->second.view();
    }
    return weights;
  };
  ModelWeights weights;
  weights.embedding = matrix(kEmbeddingName);
  weights.embedding_norm = view("model.embed_norm.weight");
  weights.embedding_conv = view("model.embed_conv.weight");
  weights.final_norm = view("model.norm.weight");
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    const auto layer_view = [&](const char* rest) { return view(LayerName(i, rest)); };
    const auto layer_matrix = [&](const char* rest) { return matrix(LayerName(i, rest)); };
    LayerWeights layer;
    layer.attention_norm = layer_view("input_layernorm.weight");
    layer.wq = layer_matrix("self_attn.q_proj.weight");
    layer.wk = layer_matrix("self_attn.k_proj.weight");
    layer.wv = layer_matrix("self_attn.v_proj.weight");
    layer.wo = layer_matrix("self_attn.o_proj.weight");
    layer.q_norm = layer_view("self_attn.q_norm.weight");
    layer.k_norm = layer_view("self_attn.k_norm.weight");
    layer.sink_logit = layer_view("self_attn.sinks");
    if (config_.gate.bias) layer.gate_bias = layer_view("self_attn.gate_bias");
    if (config_.HasGate(i)) {
      layer.gate = {layer_matrix("self_attn.gate.w1.weight"), layer_matrix("self_attn.gate.w2.weight"),
                    layer_view("self_attn.gate.conv.weight")};
    }
    layer.ffn_norm = layer_view("post_attention_layernorm.weight");
    layer.router = layer_view("mlp.router.weight");
    layer.router_bias = layer_view("mlp.router.bias");
    layer.expert_gate_up = layer_matrix("mlp.experts.gate_up_proj");
    layer.expert_down = layer_matrix("mlp.experts.down_proj");
    if (config_.moe.shared_intermediate_size > 0) {
      layer.shared_gate_up = layer_matrix("mlp.shared_expert.gate_up_proj.weight");
      layer.shared_down = layer_matrix("mlp.shared_expert.down_proj.weight");
    }
    weights.layers.push_back(layer);
  }
  return weights;
}

void WeightsTable::InitializeParameter(size_t index, const TensorView& buffer, uint64_t seed) const {
  const ParameterInfo& parameter = parameters_[index];
  Random random(seed, index);
  const int64_t columns = parameter.shape[parameter.shape.rank() - 1];
  for (int64_t i = 0; i < parameter.shape.num_elements(); ++i) {
    const auto age = static_cast<double>(columns - 1 - i % columns);
    const double std = parameter.init_std * std::pow(parameter.init_decay, age);
    const double noise = std > 0 ? std * random.Normal() : 0;
    StoreElement(buffer, parameter.offset + i, parameter.init_mean + noise);
  }
}

void WeightsTable::Initialize(const TensorView& buffer, uint64_t seed) const {
  SLUICE_CHECK_EQ(buffer.num_elements(), num_elements_);
  buffer.Zero();
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (parameters_[i].format == WeightFormat::kFloat) InitializeParameter(i, buffer, seed);
  }
}

int64_t ParameterInfo::num_bytes() const {
  const Shape rows = RowShape();
  if (format == WeightFormat::kFloat) return rows.num_elements() * static_cast<int64_t>(sizeof(float));
  return QuantizedMatrixBuffer::BytesFor(format, num_experts(), rows[0] / num_experts(), rows[1]);
}

int64_t ParameterInfo::NumStacked() const {
  const bool has_two = name.find(".gate_up_proj") != std::string::npos;
  return has_two && RowShape()[0] / num_experts() % (2 * QuantizedMatrix::kPanel) == 0 ? 2 : 1;
}

void CheckQuantization(const ModelConfig& config, const std::string& where) {
  ModelConfig floats = config;
  floats.quantization.clear();
  const WeightsTable table(floats);
  for (const auto& [name, format] : config.quantization) {
    const auto found = std::find_if(table.parameters().begin(), table.parameters().end(),
                                    [&](const ParameterInfo& parameter) { return parameter.name == name; });
    if (found == table.parameters().end()) {
      throw InputError("{}: quantization names \"{}\", which is no tensor of this model", where, name);
    }
    if (!found->CanHave(format)) {
      throw InputError(
          "{}: quantization names \"{}\" {}, which cannot be {}: only matrices {}can", where, name,
          found->shape.ToString(), NameOf(format),
          HasBlocks(format) ? fmt::format("whose rows are multiples of {} ", QuantizedMatrix::kBlock) : "");
    }
  }
}

}  // namespace sluice
