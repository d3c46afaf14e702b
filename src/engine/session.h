// A session is one timeline of a model: its tokens, their key/value cache and the logits behind the
// newest token. Sync() is how a caller says what the timeline should be; what it shares with the
// present one is not computed again.
//
// Invariant: cache and tokens have the same length. However a timeline was reached (whole, in chunks,
// by going back, over another session's pages, from a file), the logits are the same bits. A pass that fails
// (damaged weights, no memory) leaves the timeline empty, ready for another Sync.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cache/prefix_tree.h"
#include "engine/engine.h"

namespace sluice {

// How the gate finds keys: by scanning all of them, by its tree index, or by whichever is faster at a query's
// depth. The tree misses some of the scan's keys.
enum class GateIndex { kAuto, kFlat, kTree };

struct SessionOptions {
  // Room for this many tokens; 0: the model's context. Memory is taken as it is filled.
  int64_t capacity = 0;
  // Room in tokens that the session and its forks share; 0: `capacity`. Not looked at with `prefixes`.
  int64_t pool_tokens = 0;
  // How keys and values are kept: kF32, kBF16 or kI8 (ops/key_rows.h).
  DType cache_format = DType::kBF16;
  // Pages for many sessions of one engine, and what prefixes are known in them (MakePrefixTree); null: the
  // session has pages of its own.
  std::shared_ptr<PrefixTree> prefixes;
  // Tokens per pass, at most KvCache::kMaxAppend. Processor time of a 16K prefill with nano, one core:
  // 6.3 s at 128, 6.1 at 512, 5.6 at 1024, 5.3 at 4096, which takes four times the scratch memory.
  int64_t chunk_tokens = 1024;
  AttentionMode attention = AttentionMode::kSparse;
  // Keys that the gate selects; 0: the model's own number. More than `capacity` is as many as that: there are
  // no more keys, and all of them are read.
  int64_t top_k = 0;
  // Adaptive k: of these the ones of highest score that hold this share, in (0, 1], of the gate's softmax;
  // 1: all. At least min_keys are kept, or top_k where that is less.
  double gate_mass = 1;
  int64_t min_keys = 16;
  // Sparse attention only: no query leaves more than this share of any head's softmax unread, in (0, 1); 0:
  // no guarantee. PassObserver::OnGuarantee tells what was proved.
  double guarantee = 0;
  GateIndex index = GateIndex::kAuto;
  TreeOptions tree;  // min_keys is for kAuto.
  int64_t tree_group = KvCacheShape::kTreeGroup;
};

// What a session's cache holds: a tree is kept where it will be searched. Throws InputError as a session
// does.
KvCacheShape SessionCacheShape(const Engine& engine, const SessionOptions& options);

// Pages of `bytes` in all, for sessions with these options (their capacities may differ) that share prefixes.
// Throws InputError if one session of options.capacity tokens does not fit, naming what it needs.
std::shared_ptr<PrefixTree> MakePrefixTree(const Engine& engine, const SessionOptions& options,
                                           int64_t bytes);

struct SyncStats {
  int64_t reused_tokens = 0;
  int64_t computed_tokens = 0;
  double seconds = 0;
};

// Throws InputError for a token that is not of the vocabulary.
void CheckTokens(const ModelConfig& config, std::span<const int32_t> tokens);

class Session;

// The next tokens of one session in a pass of several.
struct SessionPart {
  Session* session = nullptr;
  std::span<const int32_t> tokens;  // 1 to KvCache::kMaxAppend.
  int64_t num_logits = 0;           // Logits behind so many of the last ones are wanted.
  int64_t num_draft = 0;            // So many of the last ones do not become part of the timeline yet.
};

// One pass that appends to the timelines of sessions of one engine; each gets the same bits as alone.
// logits: [rows, vocab], those of one part after another's, or absent if there are none; they do not become
// the sessions' own. If the pass fails all these sessions are empty afterwards; if the pool has too few pages
// for it, an InputError says so and nothing has changed. REQUIRES: the tokens fit and are of the vocabulary;
// no session is there twice; a draft is at most KvCache::kMaxTail − 1 of as many + 1 tokens.
void RunTogether(PassMemory& memory, std::span<const SessionPart> parts, const TensorView& logits);

class Session {
 public:
  // (done, total) tokens of this Sync that need computing.
  using Progress = std::function<void(int64_t done, int64_t total)>;

  // `engine` outlives the session. Throws InputError for options that do not fit the model.
  explicit Session(const Engine& engine, const SessionOptions& options = {});

  // Makes the timeline equal `tokens`. Throws InputError, and changes nothing, if they are empty, more
  // than capacity() or not of the vocabulary. Between two chunks Interrupted, or what `progress` throws, ends
  // it, with what is done kept.
  SyncStats Sync(std::span<const int32_t> tokens, const Progress& progress = {});
  // Back to an empty timeline.
  void Clear();
  // Takes the pages of the longest prefix of `tokens`, short of the last one, that other sessions have made
  // known, if it is longer than the timeline, of which it must be a continuation. Returns how many tokens the
  // timeline has. Sync does so by itself.
  int64_t Reuse(std::span<const int32_t> tokens);
  // Makes the timeline's whole pages known to other sessions over the same pages, as Sync does.
  void Remember() const;
  // Back to at most `num_tokens` tokens: to the whole pages in them. Returns how many are left. Without
  // logits until the next Sync or Append, unless nothing was dropped. REQUIRES: 0 <= num_tokens <=
  // num_tokens().
  int64_t Truncate(int64_t num_tokens);
  // The same timeline again. Both go on by themselves; pages that neither changes are kept once.
  Session Fork() const;
  // Writes the timeline to a file (cache/cache_file.h), and reads one in this session's place; it must have
  // been written with the same weights, router profile and options, but for capacity and chunks. Load throws
  // InputError if the file does not fit or is damaged, and leaves the timeline empty.
  void Save(const std::filesystem::path& path) const;
  void Load(const std::filesystem::path& path);
  // One more token. REQUIRES: num_tokens() < capacity(). This, Sync and AppendScored throw InputError, with
  // the timeline as it is, if the pool has no page left.
  void Append(int32_t token) { Append(token, {}); }
  // The same, with tokens that may follow: the pass runs them too, and each Append of the next one of them
  // then needs no pass. All else, and Settle, forgets what is left of them. REQUIRES: token and draft fit; at
  // most KvCache::kMaxTail − 1 tokens of draft.
  void Append(int32_t token, std::span<const int32_t> draft);
  // Whether the next Append needs no pass if it is of this token.
  bool IsForeseen(int32_t token) const;
  void Settle();
  // Appends tokens and returns −log p of each, in nats, given all before it; the first token of a
  // timeline has none and gives 0. REQUIRES: they fit. Throws InputError, with the tokens appended, if the
  // model gives one no finite probability: its weights are damaged.
  std::vector<float> AppendScored(std::span<const int32_t> tokens);

  // [vocab] of what follows the newest token. REQUIRES: has_logits(). Valid until the next change.
  TensorView logits() const;
  // False for an empty timeline, and after a Sync that did not come to its end.
  bool has_logits() const { return has_logits_; }

  const Engine& engine() const { return engine_; }
  const SessionOptions& options() const { return options_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  int64_t num_tokens() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t capacity() const { return cache_.capacity(); }
  const KvCache& cache() const { return cache_; }
  // Of all passes since the session began, also of tokens that are no longer in its timeline.
  const ExpertLoad& expert_load() const { return expert_load_; }
  // How attention works in passes from now on: the gate's selection, a selector's in its place, or all
  // keys. What is cached stays as it is. `selector` outlives its use.
  void SetAttention(AttentionMode mode, Selector* selector = nullptr);
  // How the gate finds keys in passes from now on. REQUIRES: not kTree, unless the session began with it: a
  // tree is kept from the first token on or not at all.
  void SetIndex(GateIndex index);
  // Watches all passes from now on; null: nobody.
  void Observe(PassObserver* observer) { observer_ = observer; }

 private:
  friend void RunTogether(PassMemory& memory, std::span<const SessionPart> parts, const TensorView& logits);

  Session(const Engine& engine, const SessionOptions& complete, KvCache cache);
  // Pages for `count` more tokens.
  void MakeRoom(int64_t count);
  // What cached rows depend on beside model and tokens.
  std::string OptionsKey() const;
  // One pass over a token and a draft behind it.
  void RunDraft(std::span<const int32_t> tokens);
  // One pass over at most chunk_tokens tokens; logits of its last `rows` tokens.
  void RunChunk(std::span<const int32_t> tokens, const TensorView& logits);

  const Engine& engine_;
  SessionOptions options_;
  PassOptions pass_;
  KvCache cache_;
  ExpertLoad expert_load_;
  PassMemory memory_;  // Of its own passes.
  std::vector<int32_t> tokens_;
  Buffer logits_;  // [1, vocab]
  bool has_logits_ = false;
  // Of a pass with a draft that has not been settled: the draft, how much of it has been appended since, and
  // the tokens before it in that pass.
  std::vector<int32_t> draft_;
  int64_t num_accepted_ = 0;
  int64_t num_before_draft_ = 0;
  Buffer draft_logits_;  // [1 + draft, vocab]
  Buffer chunk_logits_;  // [chunk, vocab], for scoring
  PassObserver* observer_ = nullptr;
};

}  // namespace sluice
