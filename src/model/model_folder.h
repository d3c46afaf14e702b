// A model as a folder in the layout of Hugging Face:
//   config.json             the shape (model/config.h)
//   model.safetensors       every parameter of the weights table; matrices in bfloat16, vectors in
//                           float32, some matrices perhaps in 8 or 4 bits (docs/formats/weights.md), with a
//                           checksum over the file (checkpoint/safetensors.h)
//   tokenizer.json          as trained (text/tokenizer.h)
//   generation_config.json  how to sample when nothing else is said
//   profiles/               router biases for other domains (model/router_profile.h)
//   key_codebooks.safetensors  what a guarantee bounds keys by (model/key_codebooks.h); may be absent
// Anything missing, truncated, corrupt or of the wrong shape is an InputError that names the file.
#pragma once

#include <filesystem>
#include <memory>

#include "model/model.h"

namespace sluice {

struct ModelFolder {
  std::filesystem::path path;

  std::filesystem::path config_file() const { return path / "config.json"; }
  std::filesystem::path weights_file() const { return path / "model.safetensors"; }
  std::filesystem::path tokenizer_file() const { return path / "tokenizer.json"; }
  std::filesystem::path generation_file() const { return path / "generation_config.json"; }
  std::filesystem::path profiles_folder() const { return path / "profiles"; }
  std::filesystem::path codebooks_file() const { return path / "key_codebooks.safetensors"; }

  // Throws InputError naming the folder or the first of its files that is not there.
  void RequireFiles() const;
};

// generation_config.json; a file that is not there gives these defaults.
struct GenerationConfig {
  double temperature = 0;  // 0: always the likeliest token.
  int64_t top_k = 0;       // 0: no limit.
  double top_p = 1;
};
GenerationConfig ReadGenerationConfig(const std::filesystem::path& file);

// Maps model.safetensors, verifies its checksum and copies the parameters into a model of `ops`, which
// must outlive it. Stored types f32, f16, bf16 and f64 are all taken; quantised matrices stay so, packed for
// the kernels.
std::unique_ptr<Model> LoadModel(const std::filesystem::path& folder, Ops& ops);

// What LoadWeights reads beside the rest; what it does not read keeps its values, and the file may lack it.
struct WeightsParts {
  bool gates = true;
  bool gate_bias = true;
};

// Reads the parameters of an existing model: its config must be the folder's. Throws InputError also for a
// value that is not finite.
void LoadWeights(const std::filesystem::path& weights_file, const Model& model,
                 const WeightsParts& parts = {});

// The type in which a parameter in floats is stored: vectors (norms, sinks, the router's bias) are few bytes
// and count in full.
DType StoredType(const ParameterInfo& parameter);
// The tensors of scales and minimums of a parameter in blocks.
std::string ScalesName(const std::string& parameter);
std::string MinsName(const std::string& parameter);

// Writes the four files, each as a whole or not at all, the weights last. `tokenizer_file` is copied. The
// saved model has no router profiles or key codebooks: those of weights that were there before are not of
// these.
// REQUIRES: all parameters are in floats. Throws SystemError when the disk refuses.
void SaveModel(const std::filesystem::path& folder, const Model& model,
               const std::filesystem::path& tokenizer_file);

}  // namespace sluice
