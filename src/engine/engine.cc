#include "engine/engine.h"

#include "backend/backend.h"
#include "model/router_profile.h"
#include "text/prompt.h"

namespace sluice {

namespace {

// Names what is missing before anything is parsed.
Tokenizer LoadTokenizer(const ModelFolder& files) {
  files.RequireFiles();
  return Tokenizer::FromFile(files.tokenizer_file());
}

}  // namespace

Engine::Engine(const std::filesystem::path& folder, const std::string& profile)
    : ops_(MakeOps("cpu")),
      tokenizer_(LoadTokenizer({folder})),
      generation_(ReadGenerationConfig(ModelFolder{folder}.generation_file())) {
  model_ = LoadModel(folder, *ops_);
  CheckVocabulary(ModelFolder{folder}.tokenizer_file().string());
  if (!profile.empty()) SetRouterBias(*model_, ReadRouterProfile({folder}, *model_, profile).bias);
}

Engine::Engine(std::unique_ptr<Ops> ops, std::unique_ptr<Model> model, Tokenizer tokenizer)
    : ops_(std::move(ops)), model_(std::move(model)), tokenizer_(std::move(tokenizer)) {
  SLUICE_CHECK(&model_->ops() == ops_.get());
  CheckVocabulary("tokenizer");
}

void Engine::CheckVocabulary(const std::string& where) const {
  if (tokenizer_.vocab_size() > config().vocab_size) {
    throw InputError(
        "{}: has {} tokens, but config.json says vocab_size = {}; take both files from the same model", where,
        tokenizer_.vocab_size(), config().vocab_size);
  }
  for (size_t id = 0; id < kSpecialTokens.size(); ++id) {
    const auto found = tokenizer_.SpecialToken(kSpecialTokens[id]);
    if (!found || *found != static_cast<int32_t>(id)) {
      throw InputError(
          "{}: the special token {} must have id {}; make the tokenizer with `sluice tokenizer train`", where,
          kSpecialTokens[id], id);
    }
  }
}

}  // namespace sluice
