#include "model/config.h"

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/json_object.h"

namespace sluice {

namespace {

constexpr const char* kModelType = "sluice";
constexpr const char* kQuantizationKey = "quantization";

void ReadQuantization(JsonObject reader, std::map<std::string, WeightFormat>& formats) {
  int64_t block = 0;
  reader.Read("block", block);
  if (block != QuantizedMatrix::kBlock) {
    throw InputError("{}: block is {}; this program reads blocks of {} weights", reader.where(), block,
                     QuantizedMatrix::kBlock);
  }
  JsonObject tensors = reader.Object("tensors");
  for (const auto& [name, format] : reader.Find("tensors").items()) {
    tensors.Read(name.c_str(),
                 {{NameOf(WeightFormat::kQ8), WeightFormat::kQ8},
                  {NameOf(WeightFormat::kQ4), WeightFormat::kQ4},
                  {NameOf(WeightFormat::kBF16), WeightFormat::kBF16}},
                 formats[name]);
  }
  reader.RejectUnknown();
}

nlohmann::ordered_json QuantizationToJson(const std::map<std::string, WeightFormat>& formats) {
  nlohmann::ordered_json tensors = nlohmann::ordered_json::object();
  for (const auto& [name, format] : formats) tensors[name] = NameOf(format);
  return {{"block", QuantizedMatrix::kBlock}, {"tensors", tensors}};
}

}  // namespace

ModelConfig ModelConfigFromJson(const nlohmann::ordered_json& json, const std::string& where) {
  ModelConfig config;
  JsonObject reader(json, where);
  std::string model_type;
  reader.Read("model_type", model_type);
  if (model_type != kModelType) {
    throw InputError("{}: model_type is \"{}\"; this program runs \"{}\" models", where, model_type,
                     kModelType);
  }
  reader.Read("vocab_size", config.vocab_size);
  reader.Read("hidden_size", config.hidden_size);
  reader.Read("num_hidden_layers", config.num_layers);
  reader.Read("num_attention_heads", config.num_heads);
  reader.Read("num_key_value_heads", config.num_kv_heads);
  reader.Read("head_dim", config.head_dim);
  reader.Read("max_position_embeddings", config.context_length);
  reader.Read("embedding_conv_width", config.embedding_conv_width);
  reader.Read("rms_norm_eps", config.rms_norm_eps);
  reader.Read("rope_theta", config.rope_theta);
  reader.Read("logn_length", config.logn_length);
  reader.Read("sliding_window", config.window);
  reader.Read("num_sinks", config.num_sinks);
  reader.Read("top_k", config.top_k);

  JsonObject gate = reader.Object("gate");
  gate.Read("hidden_size", config.gate.hidden_size);
  gate.Read("num_heads", config.gate.num_heads);
  gate.Read("head_dim", config.gate.head_dim);
  gate.Read("conv_width", config.gate.conv_width);
  gate.Read("every", config.gate.every);
  gate.Read("bias", config.gate.bias);
  gate.RejectUnknown();

  JsonObject moe = reader.Object("moe");
  moe.Read("num_experts", config.moe.num_experts);
  moe.Read("experts_per_token", config.moe.experts_per_token);
  moe.Read("intermediate_size", config.moe.intermediate_size);
  moe.Read("shared_intermediate_size", config.moe.shared_intermediate_size);
  moe.Read("router_scores", {{"sigmoid", RouterScores::kSigmoid}, {"softmax", RouterScores::kSoftmax}},
           config.moe.router_scores);
  moe.RejectUnknown();

  reader.ReadOptional("router_profiles", config.router_profiles);
  if (json.contains(kQuantizationKey)) {
    ReadQuantization(reader.Object(kQuantizationKey), config.quantization);
  }
  reader.RejectUnknown();
  config.Validate(where);
  return config;
}

nlohmann::ordered_json ToJson(const ModelConfig& config) {
  nlohmann::ordered_json json = {
      {"model_type", kModelType},
      {"vocab_size", config.vocab_size},
      {"hidden_size", config.hidden_size},
      {"num_hidden_layers", config.num_layers},
      {"num_attention_heads", config.num_heads},
      {"num_key_value_heads", config.num_kv_heads},
      {"head_dim", config.head_dim},
      {"max_position_embeddings", config.context_length},
      {"embedding_conv_width", config.embedding_conv_width},
      {"rms_norm_eps", config.rms_norm_eps},
      {"rope_theta", config.rope_theta},
      {"logn_length", config.logn_length},
      {"sliding_window", config.window},
      {"num_sinks", config.num_sinks},
      {"top_k", config.top_k},
      {"gate",
       {{"hidden_size", config.gate.hidden_size},
        {"num_heads", config.gate.num_heads},
        {"head_dim", config.gate.head_dim},
        {"conv_width", config.gate.conv_width},
        {"every", config.gate.every},
        {"bias", config.gate.bias}}},
      {"moe",
       {{"num_experts", config.moe.num_experts},
        {"experts_per_token", config.moe.experts_per_token},
        {"intermediate_size", config.moe.intermediate_size},
        {"shared_intermediate_size", config.moe.shared_intermediate_size},
        {"router_scores", config.moe.router_scores == RouterScores::kSoftmax ? "softmax" : "sigmoid"}}},
      {"router_profiles", config.router_profiles},
  };
  if (!config.quantization.empty()) json[kQuantizationKey] = QuantizationToJson(config.quantization);
  return json;
}

ModelConfig ReadModelConfig(const std::filesystem::path& file) {
  return ModelConfigFromJson(ReadJson(file), file.string());
}

void WriteModelConfig(const std::filesystem::path& file, const ModelConfig& config) {
  WriteFileAtomically(file, ToJson(config).dump(2) + "\n");
}

void ModelConfig::Validate(const std::string& where) const {
  const auto require = [&](bool holds, const char* what) {
    if (!holds) throw InputError("{}: {}", where, what);
  };
  constexpr int64_t kMaxSize = 1 << 24;
  for (const int64_t size :
       {vocab_size, hidden_size, num_layers, num_heads, num_kv_heads, head_dim, context_length,
        embedding_conv_width, window, top_k, gate.hidden_size, gate.num_heads, gate.head_dim, gate.conv_width,
        gate.every, moe.num_experts, moe.experts_per_token, moe.intermediate_size}) {
    require(size > 0 && size <= kMaxSize, "every size must be between 1 and 16,777,216");
  }
  require(moe.shared_intermediate_size >= 0 && moe.shared_intermediate_size <= kMaxSize,
          "moe.shared_intermediate_size must be between 0 (no shared expert) and 16,777,216");
  require(num_sinks >= 0 && num_sinks <= window, "num_sinks must be between 0 and sliding_window");
  require(num_heads % num_kv_heads == 0, "num_attention_heads must be a multiple of num_key_value_heads");
  require(head_dim % 2 == 0, "head_dim must be even (rotary embedding turns pairs)");
  require(gate.head_dim % 2 == 0, "gate.head_dim must be even (keys are packed in pairs)");
  require(moe.experts_per_token <= moe.num_experts, "moe.experts_per_token must not exceed moe.num_experts");
  require(rms_norm_eps > 0, "rms_norm_eps must be positive");
  require(rope_theta > 1, "rope_theta must be greater than 1");
  require(logn_length >= 2, "logn_length must be at least 2 (max_position_embeddings: no scaling)");
}

}  // namespace sluice
