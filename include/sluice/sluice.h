// Sluice as a library: a loaded model (Engine) and timelines of it that read tokens and write on (Session).
//
//   sluice::Engine engine("models/nano");
//   sluice::Session session(engine);
//   session.Sync(engine.AskPrompt(engine.Encode(document), "Who is the owner of the ship?"));
//   session.Generate(engine.sampling(), [](std::string_view text) { std::cout << text; });
//
// Tokens are ids in [0, vocab_size). Same weights, tokens, options and seed give the same bits: with any
// number of threads, with tokens read whole, in chunks or behind a prefix that was there.
//
// A function that fails throws Error, or std::bad_alloc. What is wrong with an argument is said before
// anything changes; an error while tokens are computed leaves the session empty, ready for another Sync. An
// engine or session that was moved from throws Error for all but assignment and destruction.
//
// An Engine is immutable: any number of threads may use one at once. A Session is used by one thread at a
// time; sessions in different threads run at the same time and do not change each other's results. The child
// of a fork() must not use the library: its worker threads are not there.
//
// From C: sluice_c.h.
#pragma once

#include <sluice/abi.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {
inline namespace v1 {  // SLUICE_ABI_VERSION

enum class ErrorKind {
  kInput,   // A file, option or argument is wrong. The message says what, where, and what would be right.
  kSystem,  // The operating system refused: no memory, a file that cannot be read.
  kBug,     // A mistake in the library; please report the message.
};

class SLUICE_API Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// Of the library: "0.1.0".
SLUICE_API const char* Version();

// Threads that a pass uses, of the whole process; at first as many as the machine has. They change the speed
// and never a result. May be called at any time. Throws Error unless it is 1 to 1024.
SLUICE_API void SetNumThreads(int num_threads);
SLUICE_API int NumThreads();

// The shape of a model.
struct ModelInfo {
  int64_t num_parameters = 0;
  int64_t vocab_size = 0;
  int64_t context_length = 0;  // Tokens.
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;          // Of queries, per layer.
  int64_t num_kv_heads = 0;       // Of keys and values, per layer.
  int64_t window = 0;             // Newest keys that every query attends to.
  int64_t top_k = 0;              // Older keys that the gate selects for it.
  int64_t num_experts = 0;        // Per layer.
  int64_t experts_per_token = 0;  // The shared expert not counted.
};

enum class Attention {
  kSparse,  // Window, first tokens, and the keys that the gate selects.
  kDense,   // All keys.
};

// How the gate finds keys: by scanning all, by searching its tree index, which misses some of the scan's, or
// by whichever is faster at a query's depth.
enum class GateIndex { kAuto, kFlat, kTree };

// How a session keeps keys and values: 4, 2 or little more than 1 byte per number.
enum class CacheFormat { kFloat32, kBFloat16, kInt8 };

struct SessionOptions {
  // Room for this many tokens; 0: the model's context. Memory is taken as it is filled.
  int64_t capacity = 0;
  // Tokens per pass of Sync, 1 to 4096. More of them are a little faster and take more memory.
  int64_t chunk_tokens = 1024;
  Attention attention = Attention::kSparse;
  GateIndex index = GateIndex::kAuto;
  int64_t top_k = 0;  // Keys that the gate selects per query; 0: the model's own number.
  // Adaptive number of keys: of the top_k those of highest score that hold this share, in (0, 1], of the
  // gate's softmax, but at least min_keys; 1: all.
  double gate_mass = 1;
  int64_t min_keys = 16;
  // Sparse attention only: no query leaves more than this share of any head's attention unread, in (0, 1); 0:
  // no guarantee.
  double guarantee = 0;
  CacheFormat cache_format = CacheFormat::kBFloat16;
  // Room in tokens that a session and all its forks share, what they have in common counted once; 0:
  // capacity.
  int64_t pool_tokens = 0;
};

// Applied in this order: logit bias, penalties, temperature, top_k, top_p, min_p.
struct SamplingOptions {
  double temperature = 0;         // 0: always the likeliest token.
  int64_t top_k = 0;              // Sample from that many likeliest tokens; 0: from all.
  double top_p = 1;               // Sample from the likeliest tokens of this joint probability, in (0, 1].
  double min_p = 0;               // Of these only ones at least that much as likely as the likeliest, 0 to 1.
  double repetition_penalty = 1;  // Of tokens in prompt or answer: divides positive logits; 0.01 to 100.
  double presence_penalty = 0;    // Off the logits of tokens in the answer; -2 to 2.
  double frequency_penalty = 0;   // The same, times how often they are there; -2 to 2.
  // Added to a token's logit: -100 to 100, or -infinity, which bans it.
  std::map<int32_t, double> logit_bias{};
  uint64_t seed = 0;
  int64_t max_tokens = 256;
  // Ask for the logprobs of every token and of this many likeliest ones in its place, 0 to 20.
  std::optional<int64_t> logprobs{};
  // Speculation: at most so many tokens, 0 to 63, are guessed from the text so far and checked in one pass,
  // where that pays; 0: none. It changes the speed, and neither tokens nor logprobs.
  int64_t max_draft = 8;
};

// A loaded model. Copies are cheap and share it.
class SLUICE_API Engine {
 public:
  // Loads a folder with config.json, model.safetensors and tokenizer.json, and verifies the weights'
  // checksum. A `profile` that is not empty names one of router_profiles() to route by in place of the
  // model's own biases. Throws Error naming the file that is missing, damaged or does not fit the others.
  explicit Engine(const std::filesystem::path& folder, const std::string& profile = "");

  ModelInfo info() const;
  std::vector<std::string> router_profiles() const;
  // What the model's generation_config.json says, and the defaults above for the rest.
  SamplingOptions sampling() const;

  // Tokens of a text. What it spells is never taken for a mark of the prompt format: `<|user|>` in a document
  // is text.
  std::vector<int32_t> Encode(std::string_view text) const;
  // The bytes of tokens; Decode(Encode(text)) == text unless tokenizer.json has a normalizer. Part of a text
  // may begin and end inside a UTF-8 sequence. Throws Error for an id that the tokenizer does not have.
  std::string Decode(std::span<const int32_t> tokens) const;

  // What the model answers to: <|document|> document <|user|> question <|assistant|>.
  std::vector<int32_t> AskPrompt(std::span<const int32_t> document, std::string_view question) const;
  // <|user|> question <|assistant|>, to follow the tokens of a document and earlier rounds.
  std::vector<int32_t> QuestionPrompt(std::string_view question) const;

 private:
  friend class Session;
  struct Impl;
  const std::shared_ptr<const Impl>& impl() const;
  std::shared_ptr<const Impl> impl_;
};

// What SessionOptions::guarantee has proved and cost, over all queries and layers that a session has run.
struct GuaranteeReport {
  double largest_bound = 0;       // Share of any head's attention left unread: of all queries,
  double mean_bound = 0;          // and the mean over queries and layers.
  double share_of_keys_read = 1;  // Of the keys that full attention would have read.
};

struct SyncStats {
  int64_t reused_tokens = 0;
  int64_t computed_tokens = 0;
  double seconds = 0;
};

enum class StopReason {
  kStopToken,    // The model ended its answer.
  kMaxTokens,    // SamplingOptions::max_tokens.
  kContextFull,  // The session's capacity.
};

// Natural logarithm of a token's probability by the model itself, before all that SamplingOptions do.
struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

struct PlaceLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> likeliest;  // Falling; `chosen` may be among them.
};

struct Generation {
  std::vector<int32_t> tokens;          // Without the stop token.
  std::string text;                     // Valid UTF-8: what is none in the tokens is U+FFFD.
  std::vector<PlaceLogprobs> logprobs;  // One per token, where they were asked for.
  StopReason stop = StopReason::kStopToken;
  double seconds = 0;
};

// One timeline of a model: tokens, and what the model keeps of them. It keeps its engine alive.
class SLUICE_API Session {
 public:
  // Called with 0 and then after every chunk: tokens done, of those that this Sync computes. What it throws
  // ends the Sync and comes out of it; what is done is kept, and a Sync to the same tokens goes on from
  // there.
  using Progress = std::function<void(int64_t done, int64_t total)>;

  // Throws Error for options that do not fit the model.
  explicit Session(const Engine& engine, const SessionOptions& options = {});
  Session(Session&& other) noexcept;
  Session& operator=(Session&& other) noexcept;
  ~Session();

  // Makes the timeline equal `tokens`, longer or shorter than before. The longest prefix that it shares with
  // the present one is reused, cut down to a multiple of 64 tokens where the timeline goes back. Throws
  // Error, and changes nothing, if there are none, more than capacity(), or one not of the vocabulary.
  SyncStats Sync(std::span<const int32_t> tokens, const Progress& progress = {});
  // One more token. Throws Error, and changes nothing, if the timeline is full or the token not of the
  // vocabulary.
  void Append(int32_t token);
  // Back to no tokens.
  void Clear();
  // Back to at most `num_tokens` tokens, a multiple of 64 unless it is all of them. Returns how many are
  // left; where any were dropped there are no logits until the next Sync or Append. Throws Error for more
  // tokens than there are.
  int64_t Truncate(int64_t num_tokens);
  // The same timeline again, over the same memory as far as both agree. Used by the same thread as this one.
  Session Fork() const;
  // Writes the timeline to a file, as a whole or not at all, and reads one in place of this session's. It
  // fits only the weights, router profile and options that made it, capacity and chunk_tokens excepted.
  // Throws Error for a file that is damaged or does not fit; the timeline then is empty.
  void Save(const std::filesystem::path& file) const;
  void Load(const std::filesystem::path& file);
  // Continues the timeline. `on_text` gets the text as it comes, in pieces of whole characters; what it
  // throws ends the generation and comes out of it, and the token that it was called for does not become part
  // of the timeline. Throws Error for options out of range, and if there are no logits.
  Generation Generate(const SamplingOptions& options = {},
                      const std::function<void(std::string_view text)>& on_text = {});

  // [vocab_size] unnormalised log-probabilities of the token that follows. Valid until the session changes.
  // Throws Error if there are none: the timeline is empty, or its last Sync did not come to its end.
  std::span<const float> logits() const;
  std::span<const int32_t> tokens() const;  // Valid until the session changes.
  int64_t num_tokens() const;
  int64_t capacity() const;  // Tokens.
  // Since the session began; nothing without a guarantee. A fork begins anew, and so does Load.
  std::optional<GuaranteeReport> guarantee() const;

 private:
  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  Impl& impl() const;
  std::unique_ptr<Impl> impl_;
};

}  // namespace v1
}  // namespace sluice
