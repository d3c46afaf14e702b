// An engine is a loaded model, immutable: weights, tokenizer and the backend that runs them. Any number
// of sessions (session.h) share one.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "model/model.h"
#include "model/model_folder.h"
#include "text/tokenizer.h"

namespace sluice {

class Engine {
 public:
  // Loads a model folder onto the cpu backend, with the router biases of `profile` (model/router_profile.h)
  // in place of the model's own, if it is not empty. Throws InputError naming the file that is missing,
  // damaged or does not fit the others, or for a profile that the model does not have.
  explicit Engine(const std::filesystem::path& folder, const std::string& profile = "");
  // From parts. REQUIRES: `ops` is the model's. Throws InputError if the vocabularies differ.
  Engine(std::unique_ptr<Ops> ops, std::unique_ptr<Model> model, Tokenizer tokenizer);

  const Model& model() const { return *model_; }
  const ModelConfig& config() const { return model_->config(); }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  const GenerationConfig& generation() const { return generation_; }
  Ops& ops() const { return *ops_; }

 private:
  void CheckVocabulary(const std::string& where) const;

  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Model> model_;
  Tokenizer tokenizer_;
  GenerationConfig generation_;
};

}  // namespace sluice
