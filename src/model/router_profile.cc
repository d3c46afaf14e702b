#include "model/router_profile.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "checkpoint/safetensors.h"
#include "tensor/host.h"

namespace sluice {

namespace {

constexpr const char* kWeightsKey = "weights";

// The parameters that a profile replaces, layer by layer.
std::vector<const ParameterInfo*> BiasParameters(const Model& model) {
  std::vector<const ParameterInfo*> biases;
  for (const ParameterInfo& parameter : model.table().parameters()) {
    if (parameter.kind == ParameterKind::kBuffer) biases.push_back(&parameter);
  }
  SLUICE_CHECK_EQ(static_cast<int64_t>(biases.size()), model.config().num_layers);
  return biases;
}

// Calls field(key, value) for every figure: reading and writing share the keys.
template <class Figures, class Field>
void ForEachFigure(Figures& figures, const Field& field) {
  field("calibration_tokens", figures.calibration_tokens);
  field("held_out_tokens", figures.held_out_tokens);
  field("blend", figures.blend);
  field("held_out_loss_before", figures.loss_before);
  field("held_out_loss_after", figures.loss_after);
  field("utilisation_before", figures.utilisation_before);
  field("utilisation_after", figures.utilisation_after);
}

const std::string& Metadata(const SafetensorsFile& file, const char* key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) {
    throw InputError(
        "{}: \"{}\" is missing in its metadata; this is not a router profile: make one with "
        "`sluice calibrate`",
        file.path().string(), key);
  }
  return found->second;
}

RouterProfileFigures ReadFigures(const SafetensorsFile& file) {
  RouterProfileFigures figures;
  ForEachFigure(figures, [&](const char* key, auto& value) {
    const auto json = nlohmann::json::parse(Metadata(file, key), nullptr, /*allow_exceptions=*/false);
    if (!json.is_number()) throw InputError("{}: \"{}\" must be a number", file.path().string(), key);
    json.get_to(value);
  });
  return figures;
}

std::string Listed(const std::vector<std::string>& names) {
  return names.empty() ? "it has none; make one with `sluice calibrate`"
                       : fmt::format("it has: {}", fmt::join(names, ", "));
}

void ReadBias(const SafetensorsFile& file, const Model& model, const TensorView& bias) {
  const std::string path = file.path().string();
  const std::vector<const ParameterInfo*> parameters = BiasParameters(model);
  if (file.tensors().size() != parameters.size()) {
    throw InputError(
        "{}: has {} tensors, but the model has {} routers; make the profile again with "
        "`sluice calibrate`",
        path, file.tensors().size(), parameters.size());
  }
  for (size_t layer = 0; layer < parameters.size(); ++layer) {
    const TensorView values = bias.At(static_cast<int64_t>(layer));
    file.ReadInto(parameters[layer]->name, values);
    const float* data = values.data<float>();
    if (!std::all_of(data, data + values.num_elements(), [](float value) { return std::isfinite(value); }))
      throw InputError("{}: tensor \"{}\" has a value that is not finite", path, parameters[layer]->name);
  }
}

}  // namespace

Buffer RouterBias(const Model& model) {
  Buffer bias(DType::kF32, {model.config().num_layers, model.config().moe.num_experts});
  const ModelWeights weights = model.table().Bind(model.parameters());
  for (int64_t layer = 0; layer < bias.view().dim(0); ++layer) {
    float* row = bias.view().row<float>(layer);
    for (int64_t e = 0; e < bias.view().dim(1); ++e) {
      row[e] = static_cast<float>(LoadElement(weights.layers[static_cast<size_t>(layer)].router_bias, e));
    }
  }
  return bias;
}

void SetRouterBias(const Model& model, const TensorView& bias) {
  const ModelWeights weights = model.table().Bind(model.parameters());
  for (int64_t layer = 0; layer < bias.dim(0); ++layer) {
    for (int64_t e = 0; e < bias.dim(1); ++e) {
      StoreElement(weights.layers[static_cast<size_t>(layer)].router_bias, e, bias.row<float>(layer)[e]);
    }
  }
}

void CheckProfileName(const std::string& name) {
  constexpr size_t kMaxLength = 64;
  constexpr const char* kAllowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  if (!name.empty() && name.size() <= kMaxLength && name.front() != '.' &&
      name.find_first_not_of(kAllowed) == std::string::npos)
    return;
  throw InputError(
      "\"{}\" cannot name a router profile; a name is 1 to {} letters, digits, dots, hyphens and "
      "underscores, "
      "and does not start with a dot",
      name, kMaxLength);
}

std::filesystem::path ProfileFile(const ModelFolder& files, const std::string& name) {
  return files.profiles_folder() / (name + ".safetensors");
}

RouterProfile ReadRouterProfile(const ModelFolder& files, const Model& model, const std::string& name) {
  CheckProfileName(name);
  const std::vector<std::string> names = ReadModelConfig(files.config_file()).router_profiles;
  if (std::find(names.begin(), names.end(), name) == names.end())
    throw InputError("{}: the model has no router profile \"{}\"; {}", files.path.string(), name,
                     Listed(names));
  const SafetensorsFile file(ProfileFile(files, name));
  if (!file.Verify()) {
    throw InputError("{}: has no checksum; make the profile again with `sluice calibrate`",
                     file.path().string());
  }
  if (Metadata(file, kWeightsKey) != SafetensorsFile(files.weights_file()).Checksum()) {
    throw InputError(
        "{}: was made for other weights than those of {}; run `sluice calibrate --name {} --force` again "
        "for these",
        file.path().string(), files.weights_file().string(), name);
  }
  RouterProfile profile;
  profile.name = name;
  profile.figures = ReadFigures(file);
  profile.bias = Buffer(DType::kF32, {model.config().num_layers, model.config().moe.num_experts});
  ReadBias(file, model, profile.bias);
  return profile;
}

void WriteRouterProfile(const ModelFolder& files, const Model& model, const RouterProfile& profile) {
  CheckProfileName(profile.name);
  std::error_code error;
  std::filesystem::create_directories(files.profiles_folder(), error);
  if (error) {
    throw SystemError("{}: cannot make the folder: {}", files.profiles_folder().string(), error.message());
  }
  std::vector<TensorToStore> tensors;
  for (const ParameterInfo* parameter : BiasParameters(model)) {
    const auto layer = static_cast<int64_t>(tensors.size());
    tensors.push_back({parameter->name, profile.bias.view().At(layer), DType::kF32});
  }
  std::map<std::string, std::string> metadata = {
      {"name", profile.name}, {kWeightsKey, SafetensorsFile(files.weights_file()).Checksum()}};
  ForEachFigure(profile.figures,
                [&](const char* key, const auto& value) { metadata[key] = fmt::format("{}", value); });
  WriteSafetensors(ProfileFile(files, profile.name), tensors, metadata);

  ModelConfig config = ReadModelConfig(files.config_file());
  std::vector<std::string>& names = config.router_profiles;
  if (std::find(names.begin(), names.end(), profile.name) != names.end()) return;
  names.push_back(profile.name);
  std::sort(names.begin(), names.end());
  WriteModelConfig(files.config_file(), config);
}

}  // namespace sluice
