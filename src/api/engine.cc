#include "api/engine_impl.h"
#include "api/translate.h"

namespace sluice::v1 {

namespace {

internal::CoreEngine Load(const std::filesystem::path& folder, const std::string& profile) {
  try {
    return internal::CoreEngine(folder, profile);
  } catch (const std::filesystem::filesystem_error& error) {
    throw Error(ErrorKind::kSystem, error.what());
  }
}

}  // namespace

const char* Version() {
  return SLUICE_VERSION;
}

void SetNumThreads(int num_threads) {
  Translated([&] { internal::kCoreSetNumThreads(num_threads); });
}

int NumThreads() {
  return internal::kCoreNumThreads();
}

Engine::Engine(const std::filesystem::path& folder, const std::string& profile)
    : impl_(Translated([&] { return std::make_shared<const Impl>(Load(folder, profile)); })) {}

const std::shared_ptr<const Engine::Impl>& Engine::impl() const {
  if (!impl_) throw Error(ErrorKind::kInput, "this engine was moved from; assign one to it first");
  return impl_;
}

ModelInfo Engine::info() const {
  const internal::CoreEngine& engine = impl()->engine;
  const ModelConfig& config = engine.config();
  ModelInfo info;
  for (const ParameterInfo& parameter : engine.model().table().parameters())
    info.num_parameters += parameter.shape.num_elements();
  info.vocab_size = config.vocab_size;
  info.context_length = config.context_length;
  info.hidden_size = config.hidden_size;
  info.num_layers = config.num_layers;
  info.num_heads = config.num_heads;
  info.num_kv_heads = config.num_kv_heads;
  info.window = config.window;
  info.top_k = config.top_k;
  info.num_experts = config.moe.num_experts;
  info.experts_per_token = config.moe.experts_per_token;
  return info;
}

std::vector<std::string> Engine::router_profiles() const {
  return impl()->engine.config().router_profiles;
}

SamplingOptions Engine::sampling() const {
  const GenerationConfig& config = impl()->engine.generation();
  SamplingOptions options;
  options.temperature = config.temperature;
  options.top_k = config.top_k;
  options.top_p = config.top_p;
  return options;
}

std::vector<int32_t> Engine::Encode(std::string_view text) const {
  return Translated([&] { return impl()->engine.tokenizer().Encode(text); });
}

std::string Engine::Decode(std::span<const int32_t> tokens) const {
  return Translated([&] { return impl()->engine.tokenizer().Decode(tokens); });
}

std::vector<int32_t> Engine::AskPrompt(std::span<const int32_t> document, std::string_view question) const {
  return Translated([&] { return internal::kCoreAskPrompt(document, impl()->engine.tokenizer(), question); });
}

std::vector<int32_t> Engine::QuestionPrompt(std::string_view question) const {
  return Translated([&] { return internal::kCoreQuestionPrompt(impl()->engine.tokenizer(), question); });
}

}  // namespace sluice::v1
