#include "engine/session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/interrupt.h"
#include "cache/cache_file.h"

namespace sluice {

namespace {

SessionOptions Complete(SessionOptions options, const ModelConfig& config) {
  if (options.capacity == 0) options.capacity = config.context_length;
  if (options.pool_tokens == 0) options.pool_tokens = options.capacity;
  if (options.top_k == 0) options.top_k = config.top_k;
  if (options.capacity < 1 || options.capacity > config.context_length) {
    throw InputError("a session of {} tokens was asked for; this model's context is 1 to {} tokens",
                     options.capacity, config.context_length);
  }
  if (options.pool_tokens < options.capacity) {
    throw InputError("pages for {} tokens were asked for; a session of {} tokens needs as many",
                     options.pool_tokens, options.capacity);
  }
  if (options.cache_format != DType::kF32 && options.cache_format != DType::kBF16 &&
      options.cache_format != DType::kI8) {
    throw InputError("keys and values cannot be kept in {}; f32, bf16 and i8 are possible",
                     NameOf(options.cache_format));
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
  shape.format = complete.cache_format;
  if (complete.guarantee > 0) shape.key_code_stages = engine.model().key_codebooks().NumStages();
  return shape;
}

std::shared_ptr<PrefixTree> MakePrefixTree(const Engine& engine, const SessionOptions& options,
                                           int64_t bytes) {
  KvCacheShape shape = SessionCacheShape(engine, options);
  shape.tree_group = 0;  // A timeline's own.
  const int64_t capacity = Complete(options, engine.config()).capacity;
  const int64_t needed = PagesFor(capacity) * shape.BytesPerPage();
  if (bytes < needed) {
    throw InputError("{} bytes of cache were asked for; one session of {} tokens needs {}", bytes, capacity,
                     needed);
  }
  const int64_t pages = bytes / shape.BytesPerPage();
  return std::make_shared<PrefixTree>(std::make_shared<PagePool>(shape, pages), pages);
}

namespace {

KvCache MakeCache(const Engine& engine, const SessionOptions& options) {
  KvCacheShape shape = SessionCacheShape(engine, options);
  const int64_t tree_group = std::exchange(shape.tree_group, 0);
  if (options.prefixes == nullptr) {
    auto pool = std::make_shared<PagePool>(shape, PagesFor(options.pool_tokens));
    return KvCache(engine.ops(), std::move(pool), options.capacity, tree_group);
  }
  const std::shared_ptr<PagePool>& pool = options.prefixes->pool();
  if (pool->shape() != shape) {
    throw InputError(
        "the shared pages were made for another model or cache format (they hold {} a token, this session "
        "needs {})",
        pool->shape().BytesPerPage() / kPageRows, shape.BytesPerPage() / kPageRows);
  }
  if (pool->num_pages() < PagesFor(options.capacity)) {
    throw InputError("a session of {} tokens needs {} pages, but all sessions together have {}",
                     options.capacity, PagesFor(options.capacity), pool->num_pages());
  }
  return KvCache(engine.ops(), pool, options.capacity, tree_group);
}

}  // namespace

Session::Session(const Engine& engine, const SessionOptions& options)
    : Session(engine, Complete(options, engine.config()),
              MakeCache(engine, Complete(options, engine.config()))) {}

Session::Session(const Engine& engine, const SessionOptions& complete, KvCache cache)
    : engine_(engine),
      options_(complete),
      cache_(std::move(cache)),
      expert_load_(engine.config().num_layers, engine.config().moe.num_experts),
      logits_(DType::kF32, {1, engine.config().vocab_size}) {
  pass_.attention = options_.attention;
  pass_.top_k = options_.top_k;
  pass_.tree = options_.tree;
  pass_.gate_mass = options_.gate_mass;
  pass_.min_keys = options_.min_keys;
  pass_.guarantee = options_.guarantee;
}

void CheckTokens(const ModelConfig& config, std::span<const int32_t> tokens) {
  const int64_t vocab = config.vocab_size;
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocab)
      throw InputError("token {} is outside the vocabulary of {}", token, vocab);
  }
}

void Session::MakeRoom(int64_t count) {
  if (cache_.Reserve(count)) return;
  // One page more than the tokens fill: the last page may have to be copied.
  if (options_.prefixes != nullptr) options_.prefixes->Evict(PagesFor(count) + 1);
  if (cache_.Reserve(count)) return;
  throw InputError(
      "{} tokens more do not fit into the {} pages of {} tokens that sessions share: {} are free", count,
      cache_.pool()->num_pages(), kPageRows, cache_.pool()->num_free());
}

std::string Session::OptionsKey() const {
  std::string key = fmt::format("attention {}", NameOf(pass_.attention));
  if (pass_.attention == AttentionMode::kDense) return key;
  key += fmt::format(", top_k {}", pass_.top_k);
  if (pass_.gate_mass < 1) key += fmt::format(", gate_mass {}, min_keys {}", pass_.gate_mass, pass_.min_keys);
  if (pass_.guarantee > 0) {
    key += fmt::format(", guarantee {}, key codebooks {}", pass_.guarantee,
                       engine_.model().key_codebooks().Fingerprint());
  }
  if (options_.index == GateIndex::kFlat) return key + ", index flat";
  return key + fmt::format(", index tree from {} keys, beam {}, groups of {}", pass_.tree.min_keys,
                           pass_.tree.beam, options_.tree_group);
}

int64_t Session::Reuse(std::span<const int32_t> tokens) {
  if (options_.prefixes == nullptr || tokens.empty()) return num_tokens();
  const std::vector<int32_t> pages = options_.prefixes->Match(OptionsKey(), tokens.first(tokens.size() - 1));
  const int64_t known = std::ssize(pages) * kPageRows;
  if (known <= num_tokens()) {
    for (const int32_t page : pages) cache_.pool()->Release(page);
    return num_tokens();
  }
  Clear();
  cache_.Adopt(pages);
  tokens_.assign(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(known));
  return known;
}

void Session::Remember() const {
  if (options_.prefixes != nullptr) options_.prefixes->Insert(OptionsKey(), tokens_, cache_.pages());
}

void RunTogether(PassMemory& memory, std::span<const SessionPart> parts, const TensorView& logits) {
  std::vector<TimelinePart> timelines;
  for (const SessionPart& part : parts) {
    part.session->Settle();
    part.session->MakeRoom(std::ssize(part.tokens));
  }
  for (const auto& [session, tokens, num_logits, num_draft] : parts) {
    session->has_logits_ = false;
    session->pass_.expert_load = &session->expert_load_;  // Not once and for all: sessions are moved.
    timelines.push_back({TensorView::Of(tokens.data(), {std::ssize(tokens)}), &session->pass_,
                         &session->cache_, session->observer_, num_logits, num_draft == 0});
  }
  try {
    parts.front().session->engine_.model().Extend(memory, timelines, logits);
  } catch (...) {
    // Some layers have the new tokens, others do not.
    for (const SessionPart& part : parts) part.session->Clear();
    throw;
  }
  for (const auto& [session, tokens, num_logits, num_draft] : parts) {
    const auto draft = tokens.end() - num_draft;
    session->tokens_.insert(session->tokens_.end(), tokens.begin(), draft);
    session->draft_.assign(draft, tokens.end());
    session->num_before_draft_ = std::ssize(tokens) - num_draft;
    session->num_accepted_ = 0;
  }
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

  Settle();
  // At least the last token is run again unless its logits are at hand.
  int64_t keep = CommonPrefix(tokens, tokens_);
  const bool complete = keep == size && size == num_tokens() && has_logits_;
  if (!complete) {
    keep = std::min(keep, size - 1);
    keep = cache_.Truncate(keep);
    tokens_.resize(static_cast<size_t>(keep));
    has_logits_ = false;
    keep = Reuse(tokens);
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
  Remember();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return {keep, total, elapsed.count()};
}

void Session::SetAttention(AttentionMode mode, Selector* selector) {
  pass_.attention = mode;
  pass_.selector = selector;
}

void Session::SetIndex(GateIndex index) {
  SLUICE_CHECK(index != GateIndex::kTree || options_.index == GateIndex::kTree);
  pass_.tree.min_keys =
      index == GateIndex::kFlat ? std::numeric_limits<int64_t>::max() : options_.tree.min_keys;
}

void Session::Clear() {
  draft_.clear();
  num_accepted_ = 0;
  cache_.Clear();
  tokens_.clear();
  has_logits_ = false;
}

int64_t Session::Truncate(int64_t num_tokens) {
  SLUICE_CHECK(num_tokens >= 0 && num_tokens <= this->num_tokens());
  Settle();
  if (num_tokens == this->num_tokens()) return num_tokens;
  tokens_.resize(static_cast<size_t>(cache_.Truncate(num_tokens)));
  has_logits_ = false;
  return this->num_tokens();
}

Session Session::Fork() const {
  SLUICE_CHECK(draft_.empty());
  Session fork(engine_, options_, cache_.Fork());
  fork.pass_ = pass_;
  fork.tokens_ = tokens_;
  fork.has_logits_ = has_logits_;
  std::memcpy(fork.logits_.view().raw(), logits_.view().raw(),
              static_cast<size_t>(logits_.view().num_elements()) * sizeof(float));
  return fork;
}

void Session::Save(const std::filesystem::path& path) const {
  if (num_tokens() == 0)
    throw InputError("there is nothing to save in {}: the session is empty", path.string());
  SLUICE_CHECK(pass_.selector == nullptr && draft_.empty());
  SaveCache(path, cache_, {engine_.model().Fingerprint(), OptionsKey()},
            has_logits_ ? logits_.view() : TensorView());
}

void Session::Load(const std::filesystem::path& path) {
  Clear();
  LoadedCache loaded = LoadCache(path, {engine_.model().Fingerprint(), OptionsKey()}, cache_);
  const int64_t vocab = engine_.config().vocab_size;
  try {
    CheckTokens(engine_.config(), loaded.tokens);
    if (!loaded.logits.empty() && std::ssize(loaded.logits) != vocab)
      throw InputError("{}: its logits are {}, not {}", path.string(), loaded.logits.size(), vocab);
  } catch (...) {
    Clear();
    throw;
  }
  tokens_ = std::move(loaded.tokens);
  has_logits_ = !loaded.logits.empty();
  if (has_logits_) std::copy(loaded.logits.begin(), loaded.logits.end(), logits_.view().data<float>());
}

bool Session::IsForeseen(int32_t token) const {
  return num_accepted_ < std::ssize(draft_) && draft_[static_cast<size_t>(num_accepted_)] == token;
}

void Session::Append(int32_t token, std::span<const int32_t> draft) {
  SLUICE_CHECK_LE(num_tokens() + 1 + std::ssize(draft), capacity());
  CheckTokens(engine_.config(), {&token, 1});
  if (IsForeseen(token)) {
    ++num_accepted_;
    tokens_.push_back(token);
    return;
  }
  if (draft.empty()) {
    RunChunk({&token, 1}, logits_.view());
  } else {
    CheckTokens(engine_.config(), draft);
    std::vector<int32_t> tokens = {token};
    tokens.insert(tokens.end(), draft.begin(), draft.end());
    RunDraft(tokens);
  }
  has_logits_ = true;
}

void Session::RunDraft(std::span<const int32_t> tokens) {
  Settle();
  const int64_t count = std::ssize(tokens);
  if (!draft_logits_.view().present() || draft_logits_.view().dim(0) < count)
    draft_logits_ = Buffer(DType::kF32, {count, engine_.config().vocab_size});
  const SessionPart part = {this, tokens, count, count - 1};
  RunTogether(memory_, {&part, 1}, draft_logits_.view().Rows(0, count));
}

void Session::Settle() {
  if (draft_.empty()) return;
  cache_.Commit(num_before_draft_ + num_accepted_);
  if (has_logits_) {
    const TensorView row = logits();
    std::memcpy(logits_.view().raw(), row.raw(), static_cast<size_t>(row.num_elements()) * sizeof(float));
  }
  draft_.clear();
  num_accepted_ = 0;
}

std::vector<float> Session::AppendScored(std::span<const int32_t> tokens) {
  const auto size = static_cast<int64_t>(tokens.size());
  SLUICE_CHECK_LE(num_tokens() + size, capacity());
  SLUICE_CHECK(num_tokens() == 0 || has_logits_);
  CheckTokens(engine_.config(), tokens);
  Settle();
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
  return draft_.empty() ? logits_.view().At(0) : draft_logits_.view().At(num_accepted_);
}

}  // namespace sluice
