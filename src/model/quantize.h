// Model folders with quantised matrices, from ones in floats; docs/formats/weights.md has the layout.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/model_folder.h"

namespace sluice {

struct QuantizeOptions {
  WeightFormat format = WeightFormat::kQ8;
  // The gates' matrices as well: 2% of nano's weights, and what a selection hangs on.
  bool gates = false;
};

// What became of one parameter.
struct QuantizedFigures {
  std::string name;
  WeightFormat format = WeightFormat::kFloat;
  int64_t bytes_before = 0;  // In the file.
  int64_t bytes_after = 0;
  double largest_error = 0;  // |w − rounded w| / the block's largest |w|, of all weights.
};

// The same model with its matrices in the format: those whose rows are whole blocks, the embedding and every
// expert included; not the router. Throws InputError for weights that are not finite. REQUIRES: float32, none
// quantised.
std::unique_ptr<Model> QuantizeModel(const Model& model, const QuantizeOptions& options);

// Writes the model in `source`, which `model` was loaded from, to `output`, quantised as above. Tokenizer,
// generation config and router profiles come along. `output` appears as a whole or not at all. `on_progress`
// gets the elements done and their total. Throws InputError if the model is quantised already or `output`
// exists, SystemError when the disk refuses.
std::vector<QuantizedFigures> SaveQuantizedModel(
    const ModelFolder& source, const Model& model, const std::filesystem::path& output,
    const QuantizeOptions& options, const std::function<void(int64_t done, int64_t total)>& on_progress);

}  // namespace sluice
