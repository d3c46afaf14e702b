#include "model/key_codebooks.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_format.h"

namespace sluice {

namespace {

constexpr int64_t kCodewords = KeyCodebook::kCodewords;

std::string TensorName(int64_t layer, const char* part) {
  return fmt::format("layers.{}.{}", layer, part);
}

Buffer Filled(const Shape& shape, float value) {
  Buffer buffer(DType::kF32, shape);
  std::fill_n(buffer.view().data<float>(), shape.num_elements(), value);
  return buffer;
}

// One tensor, all of it finite and at least `least`.
Buffer ReadPart(const SafetensorsFile& file, const std::string& name, const Shape& shape, float least) {
  Buffer part(DType::kF32, shape);
  file.ReadInto(name, part);
  const float* values = part.view().data<float>();
  for (int64_t i = 0; i < shape.num_elements(); ++i) {
    if (!(std::isfinite(values[i]) && values[i] >= least)) {
      throw InputError("{}: tensor \"{}\" holds {}; {}", file.path().string(), name, values[i],
                       least > 0 ? "weights are finite and above 0" : "its values must be finite");
    }
  }
  return part;
}

Buffer ReadCodewords(const SafetensorsFile& file, int64_t layer, const ModelConfig& config) {
  const std::string name = TensorName(layer, "codewords");
  if (!file.Has(name)) return {};
  const Shape stored = file.Find(name).shape;
  const int64_t rows = stored.rank() == 3 ? stored[1] : 0;
  if (rows == 0 || rows % kCodewords != 0 || rows > KeyCodebook::kMaxStages * kCodewords) {
    throw InputError("{}: tensor \"{}\" has shape {}; it must be [{}, stages · {}, {}], with 1 to {} stages",
                     file.path().string(), name, stored.ToString(), config.num_kv_heads, kCodewords,
                     config.head_dim, KeyCodebook::kMaxStages);
  }
  return ReadPart(file, name, {config.num_kv_heads, rows, config.head_dim},
                  std::numeric_limits<float>::lowest());
}

}  // namespace

KeyCodebooks::KeyCodebooks(const ModelConfig& config) {
  const Shape shape = {config.num_kv_heads, config.head_dim};
  for (int64_t layer = 0; layer < config.num_layers; ++layer)
    layers_.push_back({Filled(shape, 0), Filled(shape, 1), {}});
}

std::vector<int64_t> KeyCodebooks::NumStages() const {
  std::vector<int64_t> stages;
  for (size_t layer = 0; layer < layers_.size(); ++layer)
    stages.push_back(OfLayer(static_cast<int64_t>(layer)).num_stages());
  return stages;
}

std::string KeyCodebooks::Fingerprint() const {
  safetensors::Checksum checksum;
  for (const Layer& layer : layers_) {
    for (const TensorView& part : {layer.mean.view(), layer.weight.view(), layer.codewords.view()}) {
      if (part.present()) checksum.Add(part.raw(), static_cast<size_t>(part.num_elements()) * sizeof(float));
    }
  }
  return checksum.Digits();
}

KeyCodebooks ReadKeyCodebooks(const std::filesystem::path& path, const ModelConfig& config) {
  if (!std::filesystem::exists(path)) return KeyCodebooks(config);
  const SafetensorsFile file(path);
  if (!file.Verify()) {
    throw InputError("{}: has no checksum; make the codebooks again with `sluice fit-codebooks`",
                     path.string());
  }
  const Shape shape = {config.num_kv_heads, config.head_dim};
  std::vector<KeyCodebooks::Layer> layers;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    layers.push_back({ReadPart(file, TensorName(layer, "mean"), shape, std::numeric_limits<float>::lowest()),
                      ReadPart(file, TensorName(layer, "weight"), shape, std::numeric_limits<float>::min()),
                      ReadCodewords(file, layer, config)});
  }
  return KeyCodebooks(std::move(layers));
}

void WriteKeyCodebooks(const std::filesystem::path& file, const KeyCodebooks& codebooks,
                       const ModelConfig& config) {
  std::vector<TensorToStore> tensors;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const KeyCodebook parts = codebooks.OfLayer(layer);
    tensors.push_back({TensorName(layer, "mean"), parts.mean, DType::kF32});
    tensors.push_back({TensorName(layer, "weight"), parts.weight, DType::kF32});
    if (parts.num_stages() > 0)
      tensors.push_back({TensorName(layer, "codewords"), parts.codewords, DType::kBF16});
  }
  WriteSafetensors(file, tensors, {});
}

}  // namespace sluice
