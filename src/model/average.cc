#include "model/average.h"

#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "model/model_folder.h"

namespace sluice {

namespace {

// What must be the same in all models.
nlohmann::ordered_json ComparableConfig(const ModelConfig& config) {
  nlohmann::ordered_json json = ToJson(config);
  json.erase("router_profiles");
  return json;
}

// The first key of two configs with different values.
std::string FirstDifference(const nlohmann::ordered_json& a, const nlohmann::ordered_json& b) {
  for (const auto& [key, value] : a.items()) {
    if (!b.contains(key) || b[key] != value) return key;
  }
  return "a key that is missing there";
}

void CheckAlike(const ModelFolder& first, const Model& first_model, const ModelFolder& other,
                const Model& other_model) {
  const nlohmann::ordered_json a = ComparableConfig(first_model.config());
  const nlohmann::ordered_json b = ComparableConfig(other_model.config());
  if (a != b) {
    throw InputError("{}: differs from {} in \"{}\"; only weights of one config can be averaged",
                     other.config_file().string(), first.config_file().string(), FirstDifference(a, b));
  }
  if (ReadFile(first.tokenizer_file()) != ReadFile(other.tokenizer_file())) {
    throw InputError("{}: is another tokenizer than {}", other.tokenizer_file().string(),
                     first.tokenizer_file().string());
  }
}

}  // namespace

std::unique_ptr<Model> AverageModels(const std::vector<std::filesystem::path>& folders, Ops& ops) {
  SLUICE_CHECK(!folders.empty());
  const ModelFolder first{folders[0]};
  std::unique_ptr<Model> mean;
  std::vector<double> sums;
  for (const std::filesystem::path& path : folders) {
    const ModelFolder files{path};
    files.RequireFiles();
    std::unique_ptr<Model> model = LoadModel(path, ops);
    if (!model->config().quantization.empty()) {
      throw InputError("{}: has quantised weights; average the models they were made from", path.string());
    }
    if (mean != nullptr) CheckAlike(first, *mean, files, *model);
    const float* values = model->parameters().data<float>();
    sums.resize(static_cast<size_t>(model->parameters().num_elements()));
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += values[i];
    if (mean == nullptr) mean = std::move(model);
  }
  float* values = mean->parameters().data<float>();
  const auto count = static_cast<double>(folders.size());
  for (size_t i = 0; i < sums.size(); ++i) values[i] = static_cast<float>(sums[i] / count);
  return mean;
}

}  // namespace sluice
