#include "eval/shapes.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "base/interrupt.h"
#include "base/random.h"
#include "base/threads.h"
#include "model/quantize.h"

namespace sluice {

namespace {

// A prime, so that no two rows of a matrix are alike.
constexpr int64_t kPoolSize = 1'000'003;
constexpr int64_t kGrain = 1 << 16;

ModelConfig ShapeM(int64_t num_kv_heads) {
  ModelConfig config;
  config.vocab_size = 32000;
  config.hidden_size = 768;
  config.num_layers = 12;
  config.num_heads = 12;
  config.num_kv_heads = num_kv_heads;
  config.head_dim = 64;
  config.context_length = int64_t{1} << 21;
  config.window = 128;
  config.num_sinks = 4;
  config.top_k = 128;
  config.gate = {128, 4, 32, 4, 4, false};
  config.moe = {16, 2, 1024, 0, RouterScores::kSoftmax};
  return config;
}

const std::vector<std::pair<std::string, ModelConfig>>& Shapes() {
  static const std::vector<std::pair<std::string, ModelConfig>> shapes = {{"m", ShapeM(4)},
                                                                          {"m-g1", ShapeM(1)}};
  return shapes;
}

std::vector<float> NormalPool(uint64_t seed) {
  Random random(seed);
  std::vector<float> pool(kPoolSize);
  for (float& value : pool) value = static_cast<float>(random.Normal());
  return pool;
}

// `shift`: where in the pool the parameter begins.
void FillFromPool(const ParameterInfo& parameter, const std::vector<float>& pool, int64_t shift,
                  const TensorView& view) {
  const int64_t columns = parameter.shape[parameter.shape.rank() - 1];
  std::vector<float> column_std;
  for (int64_t c = 0; c < columns; ++c) {
    const double decay = std::pow(parameter.init_decay, static_cast<double>(columns - 1 - c));
    column_std.push_back(static_cast<float>(parameter.init_std * decay));
  }
  const auto mean = static_cast<float>(parameter.init_mean);
  float* values = view.data<float>();
  ParallelForRange(view.num_elements(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      values[i] = mean + column_std[static_cast<size_t>(i % columns)] *
                             pool[static_cast<size_t>((i + shift) % kPoolSize)];
    }
  });
}

}  // namespace

const std::vector<std::string>& ShapeNames() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const auto& [name, config] : Shapes()) list.push_back(name);
    return list;
  }();
  return names;
}

ModelConfig ReadShape(const std::string& name_or_file) {
  for (const auto& [name, config] : Shapes()) {
    if (name == name_or_file) return config;
  }
  if (!std::filesystem::exists(name_or_file)) {
    throw InputError("{}: is neither a file nor a built-in shape; there are {}", name_or_file,
                     fmt::join(ShapeNames(), ", "));
  }
  return ReadModelConfig(name_or_file);
}

std::unique_ptr<Model> RandomModel(const ModelConfig& config, WeightFormat format, uint64_t seed, Ops& ops,
                                   const std::function<void(int64_t done, int64_t total)>& on_progress) {
  ModelConfig floats = config;
  floats.quantization.clear();
  auto model = std::make_unique<Model>(floats, ops);
  const std::vector<float> pool = NormalPool(seed);
  Random random(seed, 1);
  int64_t done = 0;
  for (const ParameterInfo& parameter : model->table().parameters()) {
    ThrowIfInterrupted();
    const auto shift = static_cast<int64_t>(random.Below(kPoolSize));
    FillFromPool(parameter, pool, shift, model->table().View(parameter, model->parameters()));
    on_progress(done += parameter.shape.num_elements(), model->table().num_elements());
  }
  if (format == WeightFormat::kFloat) return model;
  QuantizeOptions options;
  options.format = format;
  options.rounding = Rounding::kNearest;  // Random weights mean nothing.
  return QuantizeModel(*model, options);
}

}  // namespace sluice
