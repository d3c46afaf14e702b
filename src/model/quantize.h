// Model folders with quantised matrices, from ones in floats; docs/formats/weights.md has the layout.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/model_folder.h"
#include "ops/quantize.h"

namespace sluice {

// A format for the parameters whose name matches: `*` stands for any text.
struct TensorRule {
  std::string pattern;
  WeightFormat format = WeightFormat::kFloat;
};

struct QuantizeOptions {
  // Of all matrices that can have it, and that no rule names; but kQ4 leaves the embedding in kQ8, since as
  // the output head its errors reach every logit: with it in kQ4 as well nano's perplexity rises by 2.4
  // and 2.5% on two novels, so by 1.3 and 1.6%.
  WeightFormat format = WeightFormat::kQ8;
  // The gates' matrices as well: 2% of nano's weights, and what a selection hangs on.
  bool gates = false;
  // Ahead of both; the first that matches a name decides. A parameter that cannot have the format stays in
  // floats.
  std::vector<TensorRule> rules;
  // How much each weight counts in Q4 (ops/quantize.h); null: all the same.
  const InputSquaresByName* inputs = nullptr;
  // Of Q4: least squares take 3 µs a weight and thread, round-to-nearest is enough for random weights.
  Rounding rounding = Rounding::kLeastSquares;
};

// What became of one parameter.
struct QuantizedFigures {
  std::string name;
  WeightFormat format = WeightFormat::kFloat;
  int64_t bytes_before = 0;  // In the file.
  int64_t bytes_after = 0;
  // Σ a (w − rounded w)² and Σ a w², with the importance a that the rounding had; 0 in floats.
  double error_squares = 0;
  double weight_squares = 0;

  double relative_error() const;  // Root mean square.
};

// The same model with its matrices in the formats asked for, the embedding and every expert included; not the
// router. Throws InputError for weights that are not finite, and for a rule that matches no matrix. REQUIRES:
// float32, none quantised.
std::unique_ptr<Model> QuantizeModel(const Model& model, const QuantizeOptions& options);

// Writes the model in `source`, which `model` was loaded from, to `output`, quantised as above. Tokenizer,
// generation config, router profiles and key codebooks come along. `output` appears as a whole or not at all.
// `on_progress` gets the elements done and their total. Throws InputError if the model is quantised already
// or `output` exists, SystemError when the disk refuses.
std::vector<QuantizedFigures> SaveQuantizedModel(
    const ModelFolder& source, const Model& model, const std::filesystem::path& output,
    const QuantizeOptions& options, const std::function<void(int64_t done, int64_t total)>& on_progress);

}  // namespace sluice
