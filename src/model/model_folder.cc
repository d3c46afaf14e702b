#include "model/model_folder.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <system_error>
#include <vector>

#include "base/file.h"
#include "base/threads.h"
#include "base/trace.h"
#include "checkpoint/json_object.h"
#include "checkpoint/safetensors.h"
#include "ops/quantized_matrix.h"
#include "tensor/float16.h"
#include "tensor/host.h"

namespace sluice {

namespace {

constexpr int64_t kCodesPerTask = int64_t{1} << 18;

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

bool IsInteger(DType dtype) {
  return dtype == DType::kI8 || dtype == DType::kU8 || dtype == DType::kI32 || dtype == DType::kI64;
}

// A tensor as the file must hold it.
struct ExpectedTensor {
  std::string name;
  DType dtype;
  Shape shape;
};

// The parameter's last axis at another length.
Shape WithColumns(const ParameterInfo& parameter, int64_t columns) {
  if (parameter.shape.rank() == 2) return {parameter.shape[0], columns};
  return {parameter.shape[0], parameter.shape[1], columns};
}

// The codes, then what belongs to them. REQUIRES: not in floats.
std::vector<ExpectedTensor> ExpectedTensors(const ParameterInfo& parameter) {
  const int64_t in = parameter.RowShape()[1];
  const Shape blocks = WithColumns(parameter, in / QuantizedMatrix::kBlock);
  switch (parameter.format) {
    case WeightFormat::kQ8:
      return {{parameter.name, DType::kI8, parameter.shape},
              {ScalesName(parameter.name), DType::kF16, blocks}};
    case WeightFormat::kQ4:
      return {{parameter.name, DType::kU8, WithColumns(parameter, in / 2)},
              {ScalesName(parameter.name), DType::kF16, blocks},
              {MinsName(parameter.name), DType::kF16, blocks}};
    default:
      return {{parameter.name, DType::kBF16, parameter.shape}};
  }
}

void CheckFloats(const std::string& file, const ParameterInfo& parameter, const StoredTensor& stored) {
  if (IsInteger(stored.dtype)) {
    throw InputError(
        "{}: tensor \"{}\" holds {} codes, but floats are asked for. Quantised weights cannot be trained, "
        "and run only with the config.json that was written with them; take the model that they were made "
        "from, or copy both files from the same place",
        file, parameter.name, NameOf(stored.dtype));
  }
  if (stored.shape != parameter.shape) {
    throw InputError(
        "{}: tensor \"{}\" has shape {}, but config.json beside it asks for {}; copy both files from "
        "the same place",
        file, parameter.name, stored.shape.ToString(), parameter.shape.ToString());
  }
}

void CheckQuantized(const SafetensorsFile& file, const ParameterInfo& parameter) {
  const std::string name = file.path().string();
  for (const ExpectedTensor& expected : ExpectedTensors(parameter)) {
    if (!file.Has(expected.name)) {
      throw InputError(
          "{}: tensor \"{}\" is missing, which \"{}\" in {} needs; make the file again with `sluice "
          "quantize`",
          name, expected.name, parameter.name, NameOf(parameter.format));
    }
    const StoredTensor& stored = file.Find(expected.name);
    if (stored.dtype == expected.dtype && stored.shape == expected.shape) continue;
    throw InputError(
        "{}: tensor \"{}\" is {} {}, but config.json beside it says {}, which takes {} {}; copy both files "
        "from the "
        "same place, or make them again with `sluice quantize`",
        name, expected.name, NameOf(stored.dtype), stored.shape.ToString(), NameOf(parameter.format),
        NameOf(expected.dtype), expected.shape.ToString());
  }
}

bool BelongsTo(const ParameterInfo& parameter, const std::string& name) {
  if (parameter.name == name) return true;
  if (!name.starts_with(parameter.name) || !HasBlocks(parameter.format)) return false;
  return name == ScalesName(parameter.name) ||
         (parameter.format == WeightFormat::kQ4 && name == MinsName(parameter.name));
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
    if (parameter.format == WeightFormat::kFloat) {
      CheckFloats(name, parameter, file.Find(parameter.name));
    } else {
      CheckQuantized(file, parameter);
    }
  }
  for (const StoredTensor& stored : file.tensors()) {
    bool known = false;
    for (const ParameterInfo& parameter : table.parameters()) {
      known = known || BelongsTo(parameter, stored.name);
    }
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

// Throws if one of the 16-bit floats is not finite, or negative where that means nothing.
template <class ToFloat>
void CheckHalves(const SafetensorsFile& file, const std::string& name, const TensorView& values,
                 const ToFloat& to_float, bool may_be_negative, const char* rule) {
  const auto* bits = static_cast<const uint16_t*>(values.raw());
  for (int64_t i = 0; i < values.num_elements(); ++i) {
    const float value = to_float(bits[i]);
    if (std::isfinite(value) && (may_be_negative || value >= 0)) continue;
    throw InputError(
        "{}: tensor \"{}\" has the value {} at index {}; {}: make the file again with "
        "`sluice quantize`",
        file.path().string(), name, value, i, rule);
  }
}

void CheckCodes(const SafetensorsFile& file, const std::string& name, const TensorView& codes) {
  const int8_t* code = codes.data<int8_t>();
  std::atomic<bool> found = false;
  ParallelForRange(codes.num_elements(), kCodesPerTask, [&](int64_t begin, int64_t end) {
    int8_t lowest = 0;
    for (int64_t i = begin; i < end; ++i) lowest = std::min(lowest, code[i]);
    if (lowest < -127) found = true;
  });
  if (!found) return;
  const auto lowest = std::min_element(code, code + codes.num_elements());
  throw InputError(
      "{}: tensor \"{}\" has the code -128 at index {}; codes are -127 to 127: make the file "
      "again with `sluice quantize`",
      file.path().string(), name, lowest - code);
}

// Packs the parts as they lie in the file, after a look at each: kernels rely on their range.
void LoadQuantized(const SafetensorsFile& file, const ParameterInfo& parameter,
                   const QuantizedMatrixBuffer& matrix) {
  const Shape rows = parameter.RowShape();
  const auto view = [&](const std::string& name) {
    const TensorView all = file.View(name);
    return all.Reshape({rows[0], all.dim(all.rank() - 1)});
  };
  StoredMatrix stored;
  stored.codes = view(parameter.name);
  if (parameter.format == WeightFormat::kBF16) {
    CheckHalves(file, parameter.name, stored.codes, FloatFromBF16, true, "weights are finite");
    return matrix.Pack(stored, parameter.NumStacked());
  }
  if (parameter.format == WeightFormat::kQ8) CheckCodes(file, parameter.name, stored.codes);
  stored.scales = view(ScalesName(parameter.name));
  CheckHalves(file, ScalesName(parameter.name), stored.scales, FloatFromF16, false,
              "scales are finite and not negative");
  if (parameter.format == WeightFormat::kQ4) {
    stored.mins = view(MinsName(parameter.name));
    CheckHalves(file, MinsName(parameter.name), stored.mins, FloatFromF16, true, "minimums are finite");
  }
  matrix.Pack(stored, parameter.NumStacked());
}

// The file's pages go as soon as they are copied: it and the model are not in memory together.
void ForgetTensors(const SafetensorsFile& file, const ParameterInfo& parameter) {
  for (const ExpectedTensor& tensor : ExpectedTensors(parameter)) file.Forget(tensor.name);
}

}  // namespace

DType StoredType(const ParameterInfo& parameter) {
  return parameter.shape.rank() > 1 ? DType::kBF16 : DType::kF32;
}

std::string ScalesName(const std::string& parameter) {
  return parameter + ".scales";
}

std::string MinsName(const std::string& parameter) {
  return parameter + ".mins";
}

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
    if (parameter.format != WeightFormat::kFloat) {
      LoadQuantized(file, parameter, model.Quantized(parameter.name));
      ForgetTensors(file, parameter);
      continue;
    }
    const TensorView destination = model.table().View(parameter, model.parameters());
    const bool direct = destination.dtype() == DType::kF32;
    const Buffer copy = direct ? Buffer() : Buffer(DType::kF32, parameter.shape);
    const TensorView values = direct ? destination : copy.view();
    file.ReadInto(parameter.name, values);
    file.Forget(parameter.name);
    CheckFinite(weights_file.string(), parameter.name, values);
    if (direct) continue;
    const float* in = values.data<float>();
    for (int64_t i = 0; i < destination.num_elements(); ++i) StoreElement(destination, i, in[i]);
  }
}

std::unique_ptr<Model> LoadModel(const std::filesystem::path& folder, Ops& ops) {
  const ModelFolder files{folder};
  files.RequireFiles();
  const ModelConfig config = ReadModelConfig(files.config_file());
  CheckQuantization(config, files.config_file().string());
  auto model = std::make_unique<Model>(config, ops);
  LoadWeights(files.weights_file(), *model);
  model->SetKeyCodebooks(ReadKeyCodebooks(files.codebooks_file(), config));
  return model;
}

void SaveModel(const std::filesystem::path& folder, const Model& model,
               const std::filesystem::path& tokenizer_file) {
  const ModelFolder files{folder};
  const std::string tokenizer = ReadFile(tokenizer_file);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw SystemError("{}: cannot make the folder: {}", folder.string(), error.message());
  std::filesystem::remove(files.codebooks_file(), error);
  if (error) throw SystemError("{}: cannot be removed: {}", files.codebooks_file().string(), error.message());
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
    tensors.push_back({parameters[i].name, AsFloat(values, copies[i]), StoredType(parameters[i])});
  }
  WriteSafetensors(files.weights_file(), tensors, {{"format", "pt"}});
}

}  // namespace sluice
