#include "engine/session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/interrupt.h"

namespace sluice {

namespace {

SessionOptions Complete(SessionOptions options, const ModelConfig& config) {
  if (options.capacity == 0) options.capacity = config.context_length;
  if (options.top_k == 0) options.top_k = config.top_k;
  if (options.capacity < 1 || options.capacity > config.context_length) {
    throw InputError("a session of {} tokens was asked for; this model's context is 1 to {} tokens",
                     options.capacity, config.context_length);
  }
  if (options.chunk_tokens < 1 || options.chunk_tokens > KvCache::kMaxAppend) {
    throw InputError("chunks of {} tokens were asked for; a chunk is 1 to {} tokens", options.chunk_tokens,
                     KvCache::kMaxAppend);
  }
  if (options.guarantee != 0 && !(options.guarantee > 0 && options.guarantee < 1)) {
    throw InputError(
        "a guarantee of {} was asked for; it is a share of attention between 0 and 1, such as 0.01",
        options.guarantee);
  }
  if (options.guarantee != 0 && options.attention != AttentionMode::kSparse) {
    throw InputError("a guarantee needs sparse attention: dense attention leaves nothing out");
  }
  if (options.top_k < 1) throw InputError("top_k must be positive, not {}", options.top_k);
  if (options.index == GateIndex::kTree) options.tree.min_keys = 0;
  options.top_k = std::min(options.top_k, options.capacity);
  if (!(options.gate_mass > 0 && options.gate_mass <= 1)) {
    throw InputError("gate mass must be above 0 and at most 1, which keeps all selected keys, not {}",
                     options.gate_mass);
  }
  if (options.min_keys < 1) {
    throw InputError("min keys, the fewest that gate mass keeps, must be at least 1, not {}",
                     options.min_keys);
  }
  return options;
}

int64_t CommonPrefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

}  // namespace

KvCacheShape SessionCacheShape(const Engine& engine, const SessionOptions& options) {
  const SessionOptions complete = Complete(options, engine.config());
  KvCacheShape shape = engine.model().CacheShape();
  const bool reached = complete.capacity > complete.tree.min_keys + shape.window;
  if (complete.index != GateIndex::kFlat && reached) shape.tree_group = complete.tree_group;
  return shape;
}

Session::Session(const Engine& engine, const SessionOptions& options)
    : engine_(engine),
      options_(Complete(options, engine.config())),
      cache_(engine.ops(), SessionCacheShape(engine, options_), options_.capacity),
      expert_load_(engine.config().num_layers, engine.config().moe.num_experts),
      logits_(DType::kF32, {1, engine.config().vocab_size}) {
  pass_.attention = options_.attention;
  pass_.top_k = options_.top_k;
  pass_.tree = options_.tree;
  pass_.gate_mass = options_.gate_mass;
  pass_.min_keys = options_.min_keys;
  pass_.guarantee = options_.guarantee;
  tokens_.reserve(static_cast<size_t>(options_.capacity));
}

void CheckTokens(const ModelConfig& config, std::span<const int32_t> tokens) {
  const int64_t vocab = config.vocab_size;
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocab)
      throw InputError("token {} is outside the vocabulary of {}", token, vocab);
  }
}

void RunTogether(PassMemory& memory, std::span<const SessionPart> parts, const TensorView& logits) {
  std::vector<TimelinePart> timelines;
  for (const auto& [session, tokens, num_logits] : parts) {
    session->has_logits_ = false;
    session->pass_.expert_load = &session->expert_load_;  // Not once and for all: sessions are moved.
    timelines.push_back({TensorView::Of(tokens.data(), {std::ssize(tokens)}), &session->pass_,
                         &session->cache_, session->observer_, num_logits});
  }
  try {
    parts.front().session->engine_.model().Extend(memory, timelines, logits);
  } catch (...) {
    // Some layers have the new tokens, others do not.
    for (const SessionPart& part : parts) part.session->Clear();
    throw;
  }
  for (const auto& [session, tokens, num_logits] : parts)
    session->tokens_.insert(session->tokens_.end(), tokens.begin(), tokens.end());
}

void Session::RunChunk(std::span<const int32_t> tokens, const TensorView& logits) {
  ThrowIfInterrupted();
  const SessionPart part = {this, tokens, logits.present() ? logits.dim(0) : 0};
  RunTogether(memory_, {&part, 1}, logits);
}

SyncStats Session::Sync(std::span<const int32_t> tokens, const Progress& progress) {
  const auto start = std::chrono::steady_clock::now();
  const auto size = static_cast<int64_t>(tokens.size());
  if (size == 0) throw InputError("there is nothing to read: the prompt has no tokens");
  if (size > capacity()) {
    throw InputError("{} tokens were given, but there is room for {}", size, capacity());
  }
  CheckTokens(engine_.config(), tokens);

  // At least the last token is run again unless its logits are at hand.
  int64_t keep = CommonPrefix(tokens, tokens_);
  const bool complete = keep == size && size == num_tokens() && has_logits_;
  if (!complete) {
    keep = std::min(keep, size - 1);
    keep = cache_.Truncate(keep);
    tokens_.resize(static_cast<size_t>(keep));
    has_logits_ = false;
  }
  const int64_t total = size - keep;
  if (progress) progress(0, total);
  for (int64_t begin = keep; begin < size; begin += options_.chunk_tokens) {
    const int64_t end = std::min(begin + options_.chunk_tokens, size);
    const auto chunk = tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    RunChunk(chunk, end == size ? logits_.view() : TensorView());
    if (progress) progress(end - keep, total);
  }
  has_logits_ = true;
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return {keep, total, elapsed.count()};
}

void Session::SetAttention(AttentionMode mode, Selector* selector) {
  pass_.attention = mode;
  pass_.selector = selector;
}

void Session::Clear() {
  cache_.Clear();
  tokens_.clear();
  has_logits_ = false;
}

void Session::Append(int32_t token) {
  SLUICE_CHECK_LT(num_tokens(), capacity());
  CheckTokens(engine_.config(), {&token, 1});
  RunChunk({&token, 1}, logits_.view());
  has_logits_ = true;
}

std::vector<float> Session::AppendScored(std::span<const int32_t> tokens) {
  const auto size = static_cast<int64_t>(tokens.size());
  SLUICE_CHECK_LE(num_tokens() + size, capacity());
  SLUICE_CHECK(num_tokens() == 0 || has_logits_);
  CheckTokens(engine_.config(), tokens);
  const int64_t vocab = engine_.config().vocab_size;
  if (!chunk_logits_.view().present()) chunk_logits_ = Buffer(DType::kF32, {options_.chunk_tokens, vocab});
  Ops& ops = engine_.ops();
  // losses[i] is the loss of predicting tokens[i]; row i of a pass predicts token i + 1.
  std::vector<float> losses(static_cast<size_t>(size), 0.0f);
  if (num_tokens() > 0 && size > 0) {
    ops.CrossEntropy({logits_, TensorView::Of(tokens.data(), {1}), TensorView::Of(losses.data(), {1})});
  }
  std::vector<int32_t> targets;
  std::vector<float> chunk_losses;
  for (int64_t begin = 0; begin < size; begin += options_.chunk_tokens) {
    const int64_t end = std::min(begin + options_.chunk_tokens, size);
    const int64_t count = end - begin;
    const TensorView logits = chunk_logits_.view().Rows(0, count);
    RunChunk(tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)), logits);
    targets.assign(tokens.begin() + begin + 1, tokens.begin() + std::min(end + 1, size));
    targets.resize(static_cast<size_t>(count), -1);
    chunk_losses.assign(static_cast<size_t>(count), 0.0f);
    ops.CrossEntropy(
        {logits, TensorView::Of(targets.data(), {count}), TensorView::Of(chunk_losses.data(), {count})});
    std::copy(chunk_losses.begin(), chunk_losses.begin() + (std::min(end + 1, size) - begin - 1),
              losses.begin() + begin + 1);
    std::memcpy(logits_.view().raw(), logits.row<float>(count - 1),
                static_cast<size_t>(vocab) * sizeof(float));
  }
  has_logits_ = has_logits_ || size > 0;
  for (const float loss : losses) {
    if (!std::isfinite(loss))
      throw InputError("the model gives no finite probability; its weights are not usable");
  }
  return losses;
}

TensorView Session::logits() const {
  SLUICE_CHECK(has_logits_);
  return logits_.view().At(0);
}

}  // namespace sluice
