// The codebooks of a model's keys (ops/key_codes.h), by which a guarantee bounds what it does not read. They
// are not weights: bounds are true with any codebook, and tight with one that was fitted to the model's own
// keys (eval/fit_codebooks.h). A model without them has the plainest: no stages, mean 0, weights 1.
//
// FOLDER/key_codebooks.safetensors, with a checksum over the file, holds for every layer N
//   layers.N.mean, layers.N.weight   f32 [kv_heads, head_dim]
//   layers.N.codewords               bf16 [kv_heads, stages · 256, head_dim], if there are stages, at most 16
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "model/config.h"
#include "ops/key_codes.h"
#include "tensor/tensor.h"

namespace sluice {

class KeyCodebooks {
 public:
  struct Layer {
    Buffer mean, weight;  // f32
    Buffer codewords;     // f32; absent: no stages
  };

  // The plainest of a model.
  explicit KeyCodebooks(const ModelConfig& config);
  explicit KeyCodebooks(std::vector<Layer> layers) : layers_(std::move(layers)) {}

  KeyCodebook OfLayer(int64_t layer) const {
    const Layer& parts = layers_[static_cast<size_t>(layer)];
    return {parts.mean, parts.weight, parts.codewords};
  }
  // Of every layer.
  std::vector<int64_t> NumStages() const;
  // Tells codebooks from others: codes mean nothing without those that they were made with.
  std::string Fingerprint() const;

 private:
  std::vector<Layer> layers_;
};

// Throws InputError naming the file if it is damaged or of another shape. No file: the plainest.
KeyCodebooks ReadKeyCodebooks(const std::filesystem::path& file, const ModelConfig& config);
// Writes them as a whole or not at all. REQUIRES: codewords that bfloat16 holds exactly. Throws SystemError
// when the disk refuses.
void WriteKeyCodebooks(const std::filesystem::path& file, const KeyCodebooks& codebooks,
                       const ModelConfig& config);

}  // namespace sluice
