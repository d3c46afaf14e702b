// The C header over the C++ one, and nothing else: a call is checked for NULL, made, and what it throws
// becomes a status and this thread's message.
#include <sluice/sluice.h>
#include <sluice/sluice_c.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

using sluice::Error;
using sluice::ErrorKind;

struct sluice_engine {
  sluice::Engine engine;
};

struct sluice_session {
  sluice::Session session;
};

namespace {

thread_local std::string last_error;

// Thrown through the library when a callback asks to stop.
struct Stopped {};

sluice_status Fail(sluice_status status, const char* message) {
  try {
    last_error = message;
  } catch (const std::bad_alloc&) {
    last_error.clear();
  }
  return status;
}

sluice_status StatusOf(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInput:
      return SLUICE_INPUT_ERROR;
    case ErrorKind::kSystem:
      return SLUICE_SYSTEM_ERROR;
    case ErrorKind::kBug:
      break;
  }
  return SLUICE_BUG;
}

template <class Work>
sluice_status Guarded(const Work& work) noexcept {
  try {
    work();
    return SLUICE_OK;
  } catch (const Stopped&) {
    return Fail(SLUICE_STOPPED, "stopped by the callback");
  } catch (const Error& error) {
    return Fail(StatusOf(error.kind()), error.what());
  } catch (const std::bad_alloc&) {
    return Fail(SLUICE_SYSTEM_ERROR, "out of memory");
  } catch (const std::exception& error) {
    return Fail(SLUICE_BUG, error.what());
  } catch (...) {
    return Fail(SLUICE_BUG, "an exception of unknown type");
  }
}

[[noreturn]] void InputError(const std::string& message) {
  throw Error(ErrorKind::kInput, message);
}

template <class T>
T& Required(T* pointer, const char* name) {
  if (pointer == nullptr) InputError(std::string(name) + " is NULL");
  return *pointer;
}

// NULL may stand for no elements at all.
template <class T>
std::span<const T> Elements(const T* data, size_t size, const char* name) {
  if (size > 0) Required(data, name);
  return {data, size};
}

std::string_view Text(const char* text, size_t size, const char* name) {
  const std::span<const char> bytes = Elements(text, size, name);
  return {bytes.data(), bytes.size()};
}

// The caller's struct may be an older, shorter one. REQUIRES: it begins with its size, else an error.
template <class Struct>
size_t CheckedSize(const Struct& given, const char* name) {
  const size_t size = given.struct_size;
  if (size < sizeof(size_t) || size > sizeof(Struct)) {
    InputError(std::string(name) + ".struct_size is " + std::to_string(size) + ", but this library's is " +
               std::to_string(sizeof(Struct)) +
               "; set it with the INIT macro, and use a header that is not newer than the library");
  }
  return size;
}

// The caller's options over the defaults.
template <class Struct>
Struct Complete(const Struct* given, Struct options, const char* name) {
  if (given != nullptr) std::memcpy(&options, given, CheckedSize(*given, name));
  return options;
}

// Fills the caller's struct, as much of it as there is.
template <class Struct>
void Fill(Struct& out, Struct values, const char* name) {
  values.struct_size = CheckedSize(out, name);
  std::memcpy(&out, &values, values.struct_size);
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
template <class T>
using Allocated = std::unique_ptr<T[], Free>;

// A copy with one zero element behind it.
template <class T>
Allocated<T> Copy(std::span<const T> from) {
  Allocated<T> copy(static_cast<T*>(std::malloc((from.size() + 1) * sizeof(T))));
  if (!copy) throw std::bad_alloc();
  std::copy(from.begin(), from.end(), copy.get());
  copy[from.size()] = T();
  return copy;
}

template <class T>
void Give(std::span<const T> from, T** data, size_t* size) {
  Required(data, "the pointer for the result");
  Required(size, "the pointer for its size");
  *data = Copy(from).release();
  *size = from.size();
}

sluice::SessionOptions FromC(const sluice_session_options& c) {
  if (c.attention != SLUICE_SPARSE && c.attention != SLUICE_DENSE) {
    InputError("attention is " + std::to_string(c.attention) + "; it is SLUICE_SPARSE or SLUICE_DENSE");
  }
  if (c.index < SLUICE_AUTO || c.index > SLUICE_TREE) {
    InputError("index is " + std::to_string(c.index) + "; it is SLUICE_AUTO, SLUICE_FLAT or SLUICE_TREE");
  }
  if (c.cache_format < SLUICE_FLOAT32 || c.cache_format > SLUICE_INT8) {
    InputError("cache_format is " + std::to_string(c.cache_format) +
               "; it is SLUICE_FLOAT32, SLUICE_BFLOAT16 or SLUICE_INT8");
  }
  sluice::SessionOptions options;
  options.capacity = c.capacity;
  options.chunk_tokens = c.chunk_tokens;
  options.attention = c.attention == SLUICE_DENSE ? sluice::Attention::kDense : sluice::Attention::kSparse;
  options.index = static_cast<sluice::GateIndex>(c.index);
  options.top_k = c.top_k;
  options.gate_mass = c.gate_mass;
  options.min_keys = c.min_keys;
  options.guarantee = c.guarantee;
  options.cache_format = static_cast<sluice::CacheFormat>(c.cache_format);
  options.pool_tokens = c.pool_tokens;
  return options;
}

sluice::SamplingOptions FromC(const sluice_sampling_options& c) {
  sluice::SamplingOptions options;
  options.temperature = c.temperature;
  options.top_k = c.top_k;
  options.top_p = c.top_p;
  options.seed = c.seed;
  options.max_tokens = c.max_tokens;
  options.min_p = c.min_p;
  options.repetition_penalty = c.repetition_penalty;
  options.presence_penalty = c.presence_penalty;
  options.frequency_penalty = c.frequency_penalty;
  for (const sluice_logit_bias& entry : Elements(c.logit_bias, c.num_logit_bias, "logit_bias")) {
    if (!options.logit_bias.emplace(entry.token, entry.bias).second)
      InputError("logit_bias has token " + std::to_string(entry.token) + " twice; give each one bias");
  }
  if (c.logprobs != -1) options.logprobs = c.logprobs;
  options.max_draft = c.max_draft;
  return options;
}

sluice_sampling_options ToC(const sluice::SamplingOptions& options) {
  sluice_sampling_options c = SLUICE_SAMPLING_OPTIONS_INIT;
  c.temperature = options.temperature;
  c.top_k = options.top_k;
  c.top_p = options.top_p;
  c.seed = options.seed;
  c.max_tokens = options.max_tokens;
  c.min_p = options.min_p;
  c.repetition_penalty = options.repetition_penalty;
  c.presence_penalty = options.presence_penalty;
  c.frequency_penalty = options.frequency_penalty;
  return c;
}

sluice_model_info ToC(const sluice::ModelInfo& info) {
  sluice_model_info c = SLUICE_MODEL_INFO_INIT;
  c.num_parameters = info.num_parameters;
  c.vocab_size = info.vocab_size;
  c.context_length = info.context_length;
  c.hidden_size = info.hidden_size;
  c.num_layers = info.num_layers;
  c.num_heads = info.num_heads;
  c.num_kv_heads = info.num_kv_heads;
  c.window = info.window;
  c.top_k = info.top_k;
  c.num_experts = info.num_experts;
  c.experts_per_token = info.experts_per_token;
  return c;
}

std::vector<sluice_token_logprob> ToC(const std::vector<sluice::PlaceLogprobs>& places) {
  std::vector<sluice_token_logprob> c;
  const auto add = [&](const sluice::TokenLogprob& token) { c.push_back({token.token, token.logprob}); };
  for (const sluice::PlaceLogprobs& place : places) {
    add(place.chosen);
    std::for_each(place.likeliest.begin(), place.likeliest.end(), add);
  }
  return c;
}

void GiveGeneration(const sluice::Generation& generation, sluice_generation& out) {
  Allocated<int32_t> tokens = Copy(std::span<const int32_t>(generation.tokens));
  Allocated<char> text = Copy(std::span<const char>(generation.text));
  Allocated<sluice_token_logprob> logprobs;
  sluice_generation c = SLUICE_GENERATION_INIT;
  // A caller's struct that ends before them could not free them.
  if (!generation.logprobs.empty() && CheckedSize(out, "generation") == sizeof(sluice_generation)) {
    const std::vector<sluice_token_logprob> all = ToC(generation.logprobs);
    logprobs = Copy(std::span<const sluice_token_logprob>(all));
    c.logprobs = logprobs.get();
    c.logprobs_per_token = all.size() / generation.logprobs.size();
  }
  c.tokens = tokens.get();
  c.num_tokens = generation.tokens.size();
  c.text = text.get();
  c.text_size = generation.text.size();
  c.stop = static_cast<int64_t>(generation.stop);
  c.seconds = generation.seconds;
  Fill(out, c, "generation");
  (void)tokens.release();
  (void)text.release();
  (void)logprobs.release();
}

}  // namespace

const char* sluice_last_error(void) {
  return last_error.c_str();
}

int32_t sluice_abi_version(void) {
  return SLUICE_ABI_VERSION;
}

const char* sluice_version(void) {
  return sluice::Version();
}

sluice_status sluice_set_num_threads(int32_t num_threads) {
  return Guarded([&] { sluice::SetNumThreads(num_threads); });
}

void sluice_free(void* memory) {
  std::free(memory);
}

sluice_status sluice_engine_load(const char* folder, const char* profile, sluice_engine** engine) {
  return Guarded([&] {
    Required(folder, "folder");
    Required(engine, "engine");
    *engine = new sluice_engine{sluice::Engine(folder, profile != nullptr ? profile : "")};
  });
}

void sluice_engine_free(sluice_engine* engine) {
  delete engine;
}

sluice_status sluice_engine_info(const sluice_engine* engine, sluice_model_info* info) {
  return Guarded([&] {
    const sluice::Engine& model = Required(engine, "engine").engine;
    Fill(Required(info, "info"), ToC(model.info()), "info");
  });
}

sluice_status sluice_engine_sampling(const sluice_engine* engine, sluice_sampling_options* sampling) {
  return Guarded([&] {
    const sluice::Engine& model = Required(engine, "engine").engine;
    Fill(Required(sampling, "sampling"), ToC(model.sampling()), "sampling");
  });
}

sluice_status sluice_encode(const sluice_engine* engine, const char* text, size_t text_size, int32_t** tokens,
                            size_t* num_tokens) {
  return Guarded([&] {
    const sluice::Engine& model = Required(engine, "engine").engine;
    Give<int32_t>(model.Encode(Text(text, text_size, "text")), tokens, num_tokens);
  });
}

sluice_status sluice_decode(const sluice_engine* engine, const int32_t* tokens, size_t num_tokens,
                            char** text, size_t* text_size) {
  return Guarded([&] {
    const sluice::Engine& model = Required(engine, "engine").engine;
    Give<char>(model.Decode(Elements(tokens, num_tokens, "tokens")), text, text_size);
  });
}

sluice_status sluice_ask_prompt(const sluice_engine* engine, const int32_t* document, size_t document_tokens,
                                const char* question, size_t question_size, int32_t** tokens,
                                size_t* num_tokens) {
  return Guarded([&] {
    const sluice::Engine& model = Required(engine, "engine").engine;
    Give<int32_t>(model.AskPrompt(Elements(document, document_tokens, "document"),
                                  Text(question, question_size, "question")),
                  tokens, num_tokens);
  });
}

sluice_status sluice_question_prompt(const sluice_engine* engine, const char* question, size_t question_size,
                                     int32_t** tokens, size_t* num_tokens) {
  return Guarded([&] {
    const sluice::Engine& model = Required(engine, "engine").engine;
    Give<int32_t>(model.QuestionPrompt(Text(question, question_size, "question")), tokens, num_tokens);
  });
}

sluice_status sluice_session_new(const sluice_engine* engine, const sluice_session_options* options,
                                 sluice_session** session) {
  return Guarded([&] {
    const sluice::Engine& model = Required(engine, "engine").engine;
    Required(session, "session");
    const auto complete = Complete(options, sluice_session_options SLUICE_SESSION_OPTIONS_INIT, "options");
    *session = new sluice_session{sluice::Session(model, FromC(complete))};
  });
}

void sluice_session_free(sluice_session* session) {
  delete session;
}

sluice_status sluice_session_sync(sluice_session* session, const int32_t* tokens, size_t num_tokens,
                                  sluice_progress_callback progress, void* user_data,
                                  sluice_sync_stats* stats) {
  return Guarded([&] {
    sluice::Session& timeline = Required(session, "session").session;
    if (stats != nullptr) CheckedSize(*stats, "stats");
    sluice::Session::Progress report;
    if (progress != nullptr) {
      report = [&](int64_t done, int64_t total) {
        if (progress(user_data, done, total) != 0) throw Stopped();
      };
    }
    const sluice::SyncStats done = timeline.Sync(Elements(tokens, num_tokens, "tokens"), report);
    if (stats == nullptr) return;
    Fill(*stats, {sizeof(*stats), done.reused_tokens, done.computed_tokens, done.seconds}, "stats");
  });
}

sluice_status sluice_session_append(sluice_session* session, int32_t token) {
  return Guarded([&] { Required(session, "session").session.Append(token); });
}

sluice_status sluice_session_clear(sluice_session* session) {
  return Guarded([&] { Required(session, "session").session.Clear(); });
}

sluice_status sluice_session_truncate(sluice_session* session, int64_t num_tokens, int64_t* left) {
  return Guarded([&] {
    const int64_t kept = Required(session, "session").session.Truncate(num_tokens);
    if (left != nullptr) *left = kept;
  });
}

sluice_status sluice_session_fork(const sluice_session* session, sluice_session** fork) {
  return Guarded([&] {
    Required(fork, "fork");
    *fork = new sluice_session{Required(session, "session").session.Fork()};
  });
}

sluice_status sluice_session_save(const sluice_session* session, const char* file) {
  return Guarded([&] { Required(session, "session").session.Save(&Required(file, "file")); });
}

sluice_status sluice_session_load(sluice_session* session, const char* file) {
  return Guarded([&] { Required(session, "session").session.Load(&Required(file, "file")); });
}

sluice_status sluice_session_logits(const sluice_session* session, const float** logits, size_t* vocab_size) {
  return Guarded([&] {
    Required(logits, "logits");
    Required(vocab_size, "vocab_size");
    const std::span<const float> values = Required(session, "session").session.logits();
    *logits = values.data();
    *vocab_size = values.size();
  });
}

sluice_status sluice_session_tokens(const sluice_session* session, const int32_t** tokens,
                                    size_t* num_tokens) {
  return Guarded([&] {
    Required(tokens, "tokens");
    Required(num_tokens, "num_tokens");
    const std::span<const int32_t> values = Required(session, "session").session.tokens();
    *tokens = values.data();
    *num_tokens = values.size();
  });
}

sluice_status sluice_session_capacity(const sluice_session* session, int64_t* capacity) {
  return Guarded([&] { Required(capacity, "capacity") = Required(session, "session").session.capacity(); });
}

sluice_status sluice_session_guarantee(const sluice_session* session, sluice_guarantee* guarantee) {
  return Guarded([&] {
    const sluice::Session& timeline = Required(session, "session").session;
    sluice_guarantee& out = Required(guarantee, "guarantee");
    const std::optional<sluice::GuaranteeReport> report = timeline.guarantee();
    if (!report)
      InputError("the session has no guarantee; set sluice_session_options.guarantee when it is made");
    Fill(out, {sizeof(out), report->largest_bound, report->mean_bound, report->share_of_keys_read},
         "guarantee");
  });
}

sluice_status sluice_session_generate(sluice_session* session, const sluice_sampling_options* options,
                                      sluice_text_callback on_text, void* user_data,
                                      sluice_generation* generation) {
  return Guarded([&] {
    sluice::Session& timeline = Required(session, "session").session;
    if (generation != nullptr) CheckedSize(*generation, "generation");
    const auto complete = Complete(options, sluice_sampling_options SLUICE_SAMPLING_OPTIONS_INIT, "options");
    const auto stream = [&](std::string_view text) {
      if (on_text != nullptr && on_text(user_data, text.data(), text.size()) != 0) throw Stopped();
    };
    const sluice::Generation result = timeline.Generate(FromC(complete), stream);
    if (generation != nullptr) GiveGeneration(result, *generation);
  });
}

void sluice_generation_free(sluice_generation* generation) {
  if (generation == nullptr) return;
  std::free(generation->tokens);
  std::free(generation->text);
  generation->tokens = nullptr;
  generation->text = nullptr;
  generation->num_tokens = 0;
  generation->text_size = 0;
  if (generation->struct_size < sizeof(sluice_generation)) return;
  std::free(generation->logprobs);
  generation->logprobs = nullptr;
  generation->logprobs_per_token = 0;
}
