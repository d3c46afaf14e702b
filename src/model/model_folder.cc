#include "model/model_folder.h"

#include <cmath>
#include <system_error>
#include <vector>

#include "base/file.h"
#include "base/trace.h"
#include "checkpoint/json_object.h"
#include "checkpoint/safetensors.h"
#include "tensor/host.h"

namespace sluice {

namespace {

// The parameter as f32: in place where the model is f32, else copied into `copy`.
TensorView AsFloat(const TensorView& values, Buffer& copy) {
  if (values.dtype() == DType::kF32) return values;
  copy = Buffer(DType::kF32, values.shape());
  float* out = copy.view().data<float>();
  for (int64_t i = 0; i < values.num_elements(); ++i) out[i] = static_cast<float>(LoadElement(values, i));
  return copy.view();
}

bool IsWanted(const ParameterInfo& parameter, const WeightsParts& parts) {
  if (parameter.kind == ParameterKind::kGate) return parts.gates;
  return parts.gate_bias || !parameter.name.ends_with(".gate_bias");
}

// The stored tensors must be the parameters of the table, one for one; what is not wanted may be missing.
void CheckTensors(const SafetensorsFile& file, const WeightsTable& table, const WeightsParts& parts) {
  const std::string name = file.path().string();
  for (const ParameterInfo& parameter : table.parameters()) {
    if (!IsWanted(parameter, parts)) continue;
    if (parameter.kind == ParameterKind::kGate && !file.Has(parameter.name)) {
      throw InputError(
          "{}: has no gate weights: tensor \"{}\" is missing, and without a gate nothing selects keys; give "
          "this model gates by training them, `sluice train --init FOLDER --fresh-gates`",
          name, parameter.name);
    }
    if (!file.Has(parameter.name)) {
      throw InputError(
          "{}: tensor \"{}\" is missing; config.json beside it asks for it, so the two files are not of "
          "one model: copy both from the same place",
          name, parameter.name);
    }
    const StoredTensor& stored = file.Find(parameter.name);
    if (stored.shape != parameter.shape) {
      throw InputError(
          "{}: tensor \"{}\" has shape {}, but config.json beside it asks for {}; copy both files from "
          "the same place",
          name, parameter.name, stored.shape.ToString(), parameter.shape.ToString());
    }
  }
  for (const StoredTensor& stored : file.tensors()) {
    bool known = false;
    for (const ParameterInfo& parameter : table.parameters()) known = known || parameter.name == stored.name;
    if (!known) {
      throw InputError(
          "{}: tensor \"{}\" is not part of the model that config.json beside it describes; copy both "
          "files from the same place",
          name, stored.name);
    }
  }
}

void CheckFinite(const std::string& file, const std::string& tensor, const TensorView& values) {
  const float* data = values.data<float>();
  for (int64_t i = 0; i < values.num_elements(); ++i) {
    if (std::isfinite(data[i])) continue;
    throw InputError(
        "{}: tensor \"{}\" has a value that is not finite ({} at index {}); take the weights from a "
        "checkpoint before the training went wrong",
        file, tensor, data[i], i);
  }
}

}  // namespace

void ModelFolder::RequireFiles() const {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    throw InputError(
        "{}: no such model folder; a model is a folder with config.json, model.safetensors and "
        "tokenizer.json, for example models/nano",
        path.string());
  }
  for (const auto& file : {config_file(), weights_file(), tokenizer_file()}) {
    if (!std::filesystem::is_regular_file(file, ignored)) {
      throw InputError("{}: missing; a model folder holds config.json, model.safetensors and tokenizer.json",
                       file.string());
    }
  }
}

GenerationConfig ReadGenerationConfig(const std::filesystem::path& file) {
  GenerationConfig config;
  if (!std::filesystem::exists(file)) return config;
  const nlohmann::ordered_json json = ReadJson(file);
  JsonObject reader(json, file.string());
  reader.Read("temperature", config.temperature);
  reader.Read("top_k", config.top_k);
  reader.Read("top_p", config.top_p);
  reader.RejectUnknown();
  return config;
}

void LoadWeights(const std::filesystem::path& weights_file, const Model& model, const WeightsParts& parts) {
  const TraceSpan span("load weights");
  const SafetensorsFile file(weights_file);
  file.Verify();
  CheckTensors(file, model.table(), parts);
  for (const ParameterInfo& parameter : model.table().parameters()) {
    if (!IsWanted(parameter, parts)) continue;
    const TensorView destination = model.table().View(parameter, model.parameters());
    const bool direct = destination.dtype() == DType::kF32;
    const Buffer copy = direct ? Buffer() : Buffer(DType::kF32, parameter.shape);
    const TensorView values = direct ? destination : copy.view();
    file.ReadInto(parameter.name, values);
    CheckFinite(weights_file.string(), parameter.name, values);
    if (direct) continue;
    const float* in = values.data<float>();
    for (int64_t i = 0; i < destination.num_elements(); ++i) StoreElement(destination, i, in[i]);
  }
}

std::unique_ptr<Model> LoadModel(const std::filesystem::path& folder, Ops& ops) {
  const ModelFolder files{folder};
  files.RequireFiles();
  auto model = std::make_unique<Model>(ReadModelConfig(files.config_file()), ops);
  LoadWeights(files.weights_file(), *model);
  return model;
}

void SaveModel(const std::filesystem::path& folder, const Model& model,
               const std::filesystem::path& tokenizer_file) {
  const ModelFolder files{folder};
  const std::string tokenizer = ReadFile(tokenizer_file);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw SystemError("{}: cannot make the folder: {}", folder.string(), error.message());
  WriteFileAtomically(files.tokenizer_file(), tokenizer);
  ModelConfig config = model.config();
  config.router_profiles.clear();
  WriteModelConfig(files.config_file(), config);
  const GenerationConfig defaults;
  const nlohmann::ordered_json generation = {
      {"temperature", defaults.temperature}, {"top_k", defaults.top_k}, {"top_p", defaults.top_p}};
  WriteFileAtomically(files.generation_file(), generation.dump(2) + "\n");

  const std::vector<ParameterInfo>& parameters = model.table().parameters();
  std::vector<Buffer> copies(parameters.size());
  std::vector<TensorToStore> tensors;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const TensorView values = model.table().View(parameters[i], model.parameters());
    // Vectors (norms, sinks, the router's bias) are few bytes and count in full.
    const DType stored = parameters[i].shape.rank() > 1 ? DType::kBF16 : DType::kF32;
    tensors.push_back({parameters[i].name, AsFloat(values, copies[i]), stored});
  }
  WriteSafetensors(files.weights_file(), tensors, {{"format", "pt"}});
}

}  // namespace sluice
