#include <utility>

#include "api/engine_impl.h"
#include "api/translate.h"

namespace sluice::v1 {

namespace {

internal::CoreSessionOptions ToCore(const SessionOptions& options) {
  internal::CoreSessionOptions core;
  core.capacity = options.capacity;
  core.chunk_tokens = options.chunk_tokens;
  core.attention = options.attention == Attention::kDense ? AttentionMode::kDense : AttentionMode::kSparse;
  core.index = options.index == GateIndex::kFlat   ? internal::CoreGateIndex::kFlat
               : options.index == GateIndex::kTree ? internal::CoreGateIndex::kTree
                                                   : internal::CoreGateIndex::kAuto;
  core.top_k = options.top_k;
  core.gate_mass = options.gate_mass;
  core.min_keys = options.min_keys;
  core.guarantee = options.guarantee;
  core.cache_format = options.cache_format == CacheFormat::kBFloat16 ? DType::kBF16
                      : options.cache_format == CacheFormat::kInt8   ? DType::kI8
                                                                     : DType::kF32;
  core.pool_tokens = options.pool_tokens;
  return core;
}

internal::CoreSamplingOptions ToCore(const SamplingOptions& options) {
  internal::CoreSamplingOptions core;
  core.temperature = options.temperature;
  core.top_k = options.top_k;
  core.top_p = options.top_p;
  core.min_p = options.min_p;
  core.repetition_penalty = options.repetition_penalty;
  core.presence_penalty = options.presence_penalty;
  core.frequency_penalty = options.frequency_penalty;
  core.logit_bias = options.logit_bias;
  core.seed = options.seed;
  core.max_tokens = options.max_tokens;
  core.logprobs = options.logprobs;
  core.max_draft = options.max_draft;
  return core;
}

StopReason FromCore(internal::CoreStopReason reason) {
  switch (reason) {
    case internal::CoreStopReason::kMaxTokens:
      return StopReason::kMaxTokens;
    case internal::CoreStopReason::kContextFull:
      return StopReason::kContextFull;
    case internal::CoreStopReason::kStopToken:
      break;
  }
  return StopReason::kStopToken;
}

TokenLogprob FromCore(const internal::CoreTokenLogprob& core) {
  return {core.token, core.logprob};
}

PlaceLogprobs FromCore(const internal::CorePlaceLogprobs& core) {
  PlaceLogprobs place{FromCore(core.chosen), {}};
  for (const internal::CoreTokenLogprob& token : core.likeliest) place.likeliest.push_back(FromCore(token));
  return place;
}

Generation FromCore(internal::CoreGeneration core) {
  Generation generation;
  generation.tokens = std::move(core.tokens);
  generation.text = std::move(core.text);
  for (const internal::CorePlaceLogprobs& place : core.logprobs)
    generation.logprobs.push_back(FromCore(place));
  generation.stop = FromCore(core.stop);
  generation.seconds = core.seconds;
  return generation;
}

}  // namespace

struct Session::Impl {
  Impl(std::shared_ptr<const Engine::Impl> engine_impl, const SessionOptions& options)
      : engine(std::move(engine_impl)), session(engine->engine, ToCore(options)) {
    WatchGuarantee();
  }
  Impl(std::shared_ptr<const Engine::Impl> engine_impl, internal::CoreSession core)
      : engine(std::move(engine_impl)), session(std::move(core)) {
    WatchGuarantee();
  }

  bool has_guarantee() const { return session.options().guarantee > 0; }
  // Observers keep passes from running side by side: only where there is something to see.
  void WatchGuarantee() {
    if (has_guarantee()) session.Observe(&guarantee);
  }

  void RequireLogits() const {
    if (session.has_logits()) return;
    throw Error(ErrorKind::kInput, "the session has no logits; make it read at least one token with Sync");
  }

  std::shared_ptr<const Engine::Impl> engine;  // Outlives the session.
  internal::CoreSession session;
  GuaranteeFigures guarantee;
};

Session::Session(const Engine& engine, const SessionOptions& options)
    : impl_(Translated([&] { return std::make_unique<Impl>(engine.impl(), options); })) {}
Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::Session(Session&& other) noexcept = default;
Session& Session::operator=(Session&& other) noexcept = default;
Session::~Session() = default;

Session::Impl& Session::impl() const {
  if (!impl_) throw Error(ErrorKind::kInput, "this session was moved from; assign one to it first");
  return *impl_;
}

SyncStats Session::Sync(std::span<const int32_t> tokens, const Progress& progress) {
  return Translated([&] {
    const internal::CoreSyncStats stats = impl().session.Sync(tokens, progress);
    return SyncStats{stats.reused_tokens, stats.computed_tokens, stats.seconds};
  });
}

void Session::Append(int32_t token) {
  internal::CoreSession& session = impl().session;
  Translated([&] {
    if (session.num_tokens() == session.capacity()) {
      throw internal::CoreInputError("the session is full: it has room for {} tokens", session.capacity());
    }
    session.Append(token);
  });
}

void Session::Clear() {
  Translated([&] { impl().session.Clear(); });
}

int64_t Session::Truncate(int64_t num_tokens) {
  return Translated([&] {
    internal::CoreSession& session = impl().session;
    if (num_tokens < 0 || num_tokens > session.num_tokens()) {
      throw internal::CoreInputError("the session cannot go back to {} tokens: it has {}", num_tokens,
                                     session.num_tokens());
    }
    return session.Truncate(num_tokens);
  });
}

Session Session::Fork() const {
  return Translated([&] { return Session(std::make_unique<Impl>(impl().engine, impl().session.Fork())); });
}

void Session::Save(const std::filesystem::path& file) const {
  Translated([&] { impl().session.Save(file); });
}

void Session::Load(const std::filesystem::path& file) {
  Translated([&] { impl().session.Load(file); });
  impl().guarantee = {};
}

Generation Session::Generate(const SamplingOptions& options,
                             const std::function<void(std::string_view text)>& on_text) {
  impl().RequireLogits();
  return Translated(
      [&] { return FromCore(internal::kCoreGenerate(impl().session, ToCore(options), on_text)); });
}

std::span<const float> Session::logits() const {
  impl().RequireLogits();
  const TensorView logits = impl().session.logits();
  return {logits.data<float>(), static_cast<size_t>(logits.num_elements())};
}

std::span<const int32_t> Session::tokens() const {
  return impl().session.tokens();
}

int64_t Session::num_tokens() const {
  return impl().session.num_tokens();
}

int64_t Session::capacity() const {
  return impl().session.capacity();
}

std::optional<GuaranteeReport> Session::guarantee() const {
  const Impl& self = impl();
  if (!self.has_guarantee()) return std::nullopt;
  return GuaranteeReport{self.guarantee.largest_bound(), self.guarantee.mean_bound(),
                         self.guarantee.share_read()};
}

}  // namespace sluice::v1
