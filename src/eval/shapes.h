// Shapes of models that need no files: what speed is measured on. Weights are random.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/model.h"

namespace sluice {

// "m": 12 layers, hidden size 768, 12 query heads of 64 with 4 key-value heads, 16 experts of width 1,024,
// two for a token and none shared, a vocabulary of 32,000, room for 2M tokens; a gate of 4 heads x 32 for
// every four layers picks 128 keys. Without the gate it is the shape of a small Mixtral. "m-g1": the same
// with one key-value head.
const std::vector<std::string>& ShapeNames();

// One of these, or a file like a model folder's config.json. Throws InputError if it is neither.
ModelConfig ReadShape(const std::string& name_or_file);

// A model of this shape whose weights are normal with the standard deviations of a fresh model's, so that
// activations are as large as they should be; in `format` if it is not kFloat. They repeat from a list of a
// million numbers, so that making them takes seconds: for speed, not for training. `on_progress` gets the
// elements done and their total.
std::unique_ptr<Model> RandomModel(const ModelConfig& config, WeightFormat format, uint64_t seed, Ops& ops,
                                   const std::function<void(int64_t done, int64_t total)>& on_progress);

}  // namespace sluice
