// Sluice for C11, and for any language that calls C: the engine and session of sluice.h, which says more
// about what they do, about threads, and about results being the same every time.
//
//   sluice_engine *engine = NULL;
//   if (sluice_engine_load("models/nano", NULL, &engine) != SLUICE_OK) puts(sluice_last_error());
//
// A function that can fail returns a status; what it gives goes to its last pointers, which a failure leaves
// as they were. No exception leaves the library.
//
// What a function is said to allocate is freed with sluice_free. Handles have functions of their own to free
// them. Freeing NULL does nothing.
//
// Text is UTF-8 and given with its size in bytes. What the library allocates has a zero behind it.
//
// Structs begin with their size, which SLUICE_..._INIT sets, so that later versions can add fields at the
// end.
#pragma once

#include <sluice/abi.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sluice_status {
  SLUICE_OK = 0,
  SLUICE_INPUT_ERROR = 1,   // A file, option or argument is wrong.
  SLUICE_SYSTEM_ERROR = 2,  // The operating system refused, or there is no memory.
  SLUICE_BUG = 3,           // A mistake in the library; please report the message.
  SLUICE_STOPPED = 4        // A callback asked to stop.
} sluice_status;

// What went wrong in the last call of this thread that did not return SLUICE_OK: what, where, and what would
// be right. Valid until the next such call. Never NULL.
SLUICE_API const char* sluice_last_error(void);

// SLUICE_ABI_VERSION of the library that runs, and its version: "0.1.0".
SLUICE_API int32_t sluice_abi_version(void);
SLUICE_API const char* sluice_version(void);

// Threads that a pass uses, of the whole process; at first as many as the machine has. 1 to 1024.
SLUICE_API sluice_status sluice_set_num_threads(int32_t num_threads);

SLUICE_API void sluice_free(void* memory);

// ---- Engine: a loaded model, immutable; any number of threads may use one at once.

typedef struct sluice_engine sluice_engine;

// Loads a model folder; `profile` names a router profile of it, or is NULL.
SLUICE_API sluice_status sluice_engine_load(const char* folder, const char* profile, sluice_engine** engine);
// Sessions of it may live on.
SLUICE_API void sluice_engine_free(sluice_engine* engine);

typedef struct sluice_model_info {
  size_t struct_size;
  int64_t num_parameters;
  int64_t vocab_size;
  int64_t context_length;  // Tokens.
  int64_t hidden_size;
  int64_t num_layers;
  int64_t num_heads;          // Of queries, per layer.
  int64_t num_kv_heads;       // Of keys and values, per layer.
  int64_t window;             // Newest keys that every query attends to.
  int64_t top_k;              // Older keys that the gate selects for it.
  int64_t num_experts;        // Per layer.
  int64_t experts_per_token;  // The shared expert not counted.
} sluice_model_info;
#define SLUICE_MODEL_INFO_INIT \
  { sizeof(sluice_model_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

SLUICE_API sluice_status sluice_engine_info(const sluice_engine* engine, sluice_model_info* info);

typedef struct sluice_logit_bias {
  int32_t token;
  double bias;  // Added to the token's logit: -100 to 100, or -INFINITY, which bans it.
} sluice_logit_bias;

// Applied in this order: logit bias, penalties, temperature, top_k, top_p, min_p.
typedef struct sluice_sampling_options {
  size_t struct_size;
  double temperature;  // 0: always the likeliest token.
  int64_t top_k;       // Sample from that many likeliest tokens; 0: from all.
  double top_p;        // Sample from the likeliest tokens of this joint probability, in (0, 1].
  uint64_t seed;
  int64_t max_tokens;
  double min_p;               // Of these only ones at least that much as likely as the likeliest, 0 to 1.
  double repetition_penalty;  // Of tokens in prompt or answer: divides positive logits; 0.01 to 100.
  double presence_penalty;    // Off the logits of tokens in the answer; -2 to 2.
  double frequency_penalty;   // The same, times how often they are there; -2 to 2.
  const sluice_logit_bias* logit_bias;  // num_logit_bias of them, no token twice; NULL: none.
  size_t num_logit_bias;
  int64_t logprobs;  // Likeliest tokens whose logprobs a generation has per token, 0 to 20; -1: no logprobs.
  // Speculation: at most so many tokens, 0 to 63, are guessed from the text so far and checked in one pass,
  // where that pays; 0: none. It changes the speed, and neither tokens nor logprobs.
  int64_t max_draft;
} sluice_sampling_options;
#define SLUICE_SAMPLING_OPTIONS_INIT \
  { sizeof(sluice_sampling_options), 0, 0, 1, 0, 256, 0, 1, 0, 0, NULL, 0, -1, 8 }

// What the model's generation_config.json says, and the defaults above for the rest.
SLUICE_API sluice_status sluice_engine_sampling(const sluice_engine* engine,
                                                sluice_sampling_options* sampling);

// The tokens of a text, allocated. What it spells is never taken for a mark of the prompt format.
SLUICE_API sluice_status sluice_encode(const sluice_engine* engine, const char* text, size_t text_size,
                                       int32_t** tokens, size_t* num_tokens);
// The bytes of tokens, allocated.
SLUICE_API sluice_status sluice_decode(const sluice_engine* engine, const int32_t* tokens, size_t num_tokens,
                                       char** text, size_t* text_size);

// <|document|> document <|user|> question <|assistant|>, allocated: what the model answers to.
SLUICE_API sluice_status sluice_ask_prompt(const sluice_engine* engine, const int32_t* document,
                                           size_t document_tokens, const char* question, size_t question_size,
                                           int32_t** tokens, size_t* num_tokens);
// <|user|> question <|assistant|>, allocated, to follow the tokens of a document and earlier rounds.
SLUICE_API sluice_status sluice_question_prompt(const sluice_engine* engine, const char* question,
                                                size_t question_size, int32_t** tokens, size_t* num_tokens);

// ---- Session: one timeline of a model, used by one thread at a time.

typedef struct sluice_session sluice_session;

typedef enum sluice_attention { SLUICE_SPARSE = 0, SLUICE_DENSE = 1 } sluice_attention;
typedef enum sluice_gate_index { SLUICE_AUTO = 0, SLUICE_FLAT = 1, SLUICE_TREE = 2 } sluice_gate_index;
typedef enum sluice_cache_format {
  SLUICE_FLOAT32 = 0,
  SLUICE_BFLOAT16 = 1,
  SLUICE_INT8 = 2
} sluice_cache_format;

typedef struct sluice_session_options {
  size_t struct_size;
  int64_t capacity;      // Room for this many tokens; 0: the model's context.
  int64_t chunk_tokens;  // Tokens per pass of a sync, 1 to 4096.
  int32_t attention;     // sluice_attention
  int32_t index;         // sluice_gate_index: how the gate finds keys.
  int64_t top_k;         // Keys that the gate selects per query; 0: the model's own number.
  double gate_mass;      // Of these the best that hold this share of the gate's softmax, in (0, 1]; 1: all.
  int64_t min_keys;      // Keys that gate_mass keeps at least.
  double guarantee;      // Largest share of attention that a query may leave unread, in (0, 1); 0: none.
  int64_t cache_format;  // sluice_cache_format: how keys and values are kept.
  int64_t pool_tokens;   // Room that a session and all its forks share; 0: capacity.
} sluice_session_options;
#define SLUICE_SESSION_OPTIONS_INIT \
  { sizeof(sluice_session_options), 0, 1024, SLUICE_SPARSE, SLUICE_AUTO, 0, 1, 16, 0, SLUICE_BFLOAT16, 0 }

// `options` may be NULL: those of the INIT.
SLUICE_API sluice_status sluice_session_new(const sluice_engine* engine,
                                            const sluice_session_options* options, sluice_session** session);
SLUICE_API void sluice_session_free(sluice_session* session);

// Called with done = 0 and then after every chunk. Anything but 0 stops the sync with SLUICE_STOPPED; what is
// done is kept.
typedef int (*sluice_progress_callback)(void* user_data, int64_t done, int64_t total);

typedef struct sluice_sync_stats {
  size_t struct_size;
  int64_t reused_tokens;
  int64_t computed_tokens;
  double seconds;
} sluice_sync_stats;
#define SLUICE_SYNC_STATS_INIT \
  { sizeof(sluice_sync_stats), 0, 0, 0 }

// Makes the timeline equal `tokens`, longer or shorter than before; the prefix that it shares with the
// present one is reused. `progress` and `stats` may be NULL.
SLUICE_API sluice_status sluice_session_sync(sluice_session* session, const int32_t* tokens,
                                             size_t num_tokens, sluice_progress_callback progress,
                                             void* user_data, sluice_sync_stats* stats);
// One more token.
SLUICE_API sluice_status sluice_session_append(sluice_session* session, int32_t token);
// Back to no tokens.
SLUICE_API sluice_status sluice_session_clear(sluice_session* session);

// Back to at most `num_tokens` tokens, a multiple of 64 unless it is all of them; `left` (may be NULL): how
// many there are then.
SLUICE_API sluice_status sluice_session_truncate(sluice_session* session, int64_t num_tokens, int64_t* left);
// The same timeline again, over the same memory as far as both agree; used by the same thread.
SLUICE_API sluice_status sluice_session_fork(const sluice_session* session, sluice_session** fork);
// Writes the timeline to a file, as a whole or not at all, and reads one in place of this session's: of the
// same model and options. A file that is damaged or does not fit is an input error, and the timeline then
// empty.
SLUICE_API sluice_status sluice_session_save(const sluice_session* session, const char* file);
SLUICE_API sluice_status sluice_session_load(sluice_session* session, const char* file);

// The session's own, valid until it changes: [vocab_size] unnormalised log-probabilities of the token that
// follows, and the tokens of the timeline.
SLUICE_API sluice_status sluice_session_logits(const sluice_session* session, const float** logits,
                                               size_t* vocab_size);
SLUICE_API sluice_status sluice_session_tokens(const sluice_session* session, const int32_t** tokens,
                                               size_t* num_tokens);
// Tokens that it has room for.
SLUICE_API sluice_status sluice_session_capacity(const sluice_session* session, int64_t* capacity);

// What sluice_session_options.guarantee has proved and cost, over all queries and layers since the session
// began; a fork begins anew, and so does a load.
typedef struct sluice_guarantee {
  size_t struct_size;
  double largest_bound;       // Share of any head's attention left unread: of all queries,
  double mean_bound;          // and the mean over queries and layers.
  double share_of_keys_read;  // Of the keys that full attention would have read.
} sluice_guarantee;
#define SLUICE_GUARANTEE_INIT \
  { sizeof(sluice_guarantee), 0, 0, 1 }

// An input error for a session without a guarantee.
SLUICE_API sluice_status sluice_session_guarantee(const sluice_session* session, sluice_guarantee* guarantee);

// ---- Generation

// A piece of whole characters. Anything but 0 stops the generation with SLUICE_STOPPED; the token that the
// piece came with does not become part of the timeline.
typedef int (*sluice_text_callback)(void* user_data, const char* text, size_t text_size);

typedef enum sluice_stop_reason {
  SLUICE_STOP_TOKEN = 0,        // The model ended its answer.
  SLUICE_STOP_MAX_TOKENS = 1,   // sluice_sampling_options.max_tokens.
  SLUICE_STOP_CONTEXT_FULL = 2  // The session's capacity.
} sluice_stop_reason;

// Natural logarithm of a token's probability by the model itself, before all that the options do.
typedef struct sluice_token_logprob {
  int32_t token;
  float logprob;
} sluice_token_logprob;

typedef struct sluice_generation {
  size_t struct_size;
  int32_t* tokens;  // Allocated, without the stop token.
  size_t num_tokens;
  char* text;  // Allocated; valid UTF-8: what is none in the tokens is U+FFFD.
  size_t text_size;
  int64_t stop;  // sluice_stop_reason
  double seconds;
  // [num_tokens, logprobs_per_token], allocated: the token's own, then those of the likeliest ones in its
  // place, falling. NULL where none were asked for.
  sluice_token_logprob* logprobs;
  size_t logprobs_per_token;
} sluice_generation;
#define SLUICE_GENERATION_INIT \
  { sizeof(sluice_generation), NULL, 0, NULL, 0, 0, 0, NULL, 0 }

// Continues the timeline; the new tokens become part of it. `options` may be NULL: those of the INIT; so may
// `on_text` and `generation`. What `generation` held before is not freed.
SLUICE_API sluice_status sluice_session_generate(sluice_session* session,
                                                 const sluice_sampling_options* options,
                                                 sluice_text_callback on_text, void* user_data,
                                                 sluice_generation* generation);
// Frees tokens, text and logprobs.
SLUICE_API void sluice_generation_free(sluice_generation* generation);

#ifdef __cplusplus
}  // extern "C"
#endif
