// Times decode and prefill of llama.cpp, or of its fork ik_llama.cpp, at a depth of the cache, without
// reading that many tokens first: the state of a short sequence is taken out, repeated until it is `depth`
// tokens long, and put back. A pass's time depends on how many keys there are, not on what they say;
// `llama-bench -d` measures the same, but has to prefill all of it: an hour and more at 131,072 tokens. For
// tools/compare_peers.py, which compiles it against the peer's headers; it is no part of the build.
//
//   peer_bench MODEL.gguf DEPTH THREADS FLASH_ATTENTION(0|1) CACHE(f16|q8_0) PREFILL DECODE REPEATS SECONDS
//
// prints {"decode": seconds of one token, "prefill": seconds of PREFILL tokens}: medians of at most DECODE
// and REPEATS passes, no further ones after SECONDS. -DPEER_IK: the fork's calls.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "llama.h"

namespace {

constexpr int kSeedTokens = 256;  // Of the sequence that is repeated.
constexpr int kVocabulary = 32000;

#ifdef PEER_IK
size_t StateSize(llama_context* context) {
  return llama_state_seq_get_size(context, 0, 0);
}
size_t GetState(llama_context* context, std::vector<uint8_t>& state) {
  return llama_state_seq_get_data(context, state.data(), state.size(), 0, 0);
}
size_t SetState(llama_context* context, const std::vector<uint8_t>& state) {
  return llama_state_seq_set_data(context, state.data(), state.size(), 0, 0);
}
void Truncate(llama_context* context, int length) {
  llama_kv_cache_seq_rm(context, 0, length, -1);
}
void SetFlashAttention(llama_context_params& params, bool on) {
  params.flash_attn = on;
}
#else
size_t StateSize(llama_context* context) {
  return llama_state_seq_get_size(context, 0);
}
size_t GetState(llama_context* context, std::vector<uint8_t>& state) {
  return llama_state_seq_get_data(context, state.data(), state.size(), 0);
}
size_t SetState(llama_context* context, const std::vector<uint8_t>& state) {
  return llama_state_seq_set_data(context, state.data(), state.size(), 0);
}
void Truncate(llama_context* context, int length) {
  llama_memory_seq_rm(llama_get_memory(context), 0, length, -1);
}
void SetFlashAttention(llama_context_params& params, bool on) {
  params.flash_attn_type = on ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
}
#endif

// Reads the state of kSeedTokens tokens and writes that of `depth`. Its layout: a header (a magic number, the
// sequence and the number of streams; none in the fork), the number of cells; of each cell position, number
// of sequences, their ids; whether values are transposed, the number of layers; of each layer type, bytes of
// a row and the rows of the keys; then of the values, in rows likewise or, transposed, type, bytes of an
// element, number of channels and these.
class StateRepeater {
 public:
  StateRepeater(const std::vector<uint8_t>& state, int depth) : state_(state), depth_(depth) {}

  std::vector<uint8_t> Repeat() {
    for (int word = 0; word < kMaxHeader && Peek<uint32_t>() != kSeedTokens; ++word) Copy<uint32_t>();
    if (Read<uint32_t>() != kSeedTokens) throw std::runtime_error("the state's layout is not known");
    Write(static_cast<uint32_t>(depth_));
    Cells();
    const auto transposed = Copy<uint32_t>();
    const auto layers = Copy<uint32_t>();
    for (uint32_t i = 0; i < layers; ++i) Rows();
    for (uint32_t i = 0; i < layers; ++i) transposed == 1 ? Channels() : Rows();
#ifdef PEER_IK
    // What follows is of kinds of layers that this model does not have, the same at any depth.
    out_.insert(out_.end(), state_.begin() + static_cast<std::ptrdiff_t>(place_), state_.end());
#else
    if (place_ != state_.size()) throw std::runtime_error("the state's layout is not known");
#endif
    return std::move(out_);
  }

 private:
  static constexpr int kMaxHeader = 3;  // Words.

  template <class T>
  T Peek() const {
    T value;
    std::memcpy(&value, Bytes(place_, sizeof(T)), sizeof(T));
    return value;
  }
  template <class T>
  T Read() {
    const T value = Peek<T>();
    place_ += sizeof(T);
    return value;
  }
  template <class T>
  void Write(T value) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
    out_.insert(out_.end(), bytes, bytes + sizeof(T));
  }
  template <class T>
  T Copy() {
    const T value = Read<T>();
    Write(value);
    return value;
  }
  const uint8_t* Bytes(size_t begin, size_t count) const {
    if (begin + count > state_.size()) throw std::runtime_error("the state's layout is not known");
    return state_.data() + begin;
  }

  void Cells() {
    uint32_t sequences = 0;
    for (int i = 0; i < kSeedTokens; ++i) {
      Read<int32_t>();
      sequences = Read<uint32_t>();
      place_ += sequences * sizeof(int32_t);
    }
    for (int i = 0; i < depth_; ++i) {
      Write(static_cast<int32_t>(i));
      Write(sequences);
      for (uint32_t s = 0; s < sequences; ++s) Write(int32_t{0});
    }
  }
  // `unit` bytes of each token, repeated up to depth_ tokens.
  void Tokens(size_t unit) {
    const uint8_t* tokens = Bytes(place_, unit * kSeedTokens);
    for (int done = 0; done < depth_; done += kSeedTokens) {
      const size_t count = static_cast<size_t>(std::min(kSeedTokens, depth_ - done)) * unit;
      out_.insert(out_.end(), tokens, tokens + count);
    }
    place_ += unit * kSeedTokens;
  }
  void Rows() {
    Copy<int32_t>();
    Tokens(Copy<uint64_t>());
  }
  void Channels() {
    Copy<int32_t>();
    const auto element = Copy<uint32_t>();
    const auto channels = Copy<uint32_t>();
    for (uint32_t c = 0; c < channels; ++c) Tokens(element);
  }

  const std::vector<uint8_t>& state_;
  const int depth_;
  size_t place_ = 0;
  std::vector<uint8_t> out_;
};

class Timeline {
 public:
  Timeline(llama_context* context, int max_tokens)
      : context_(context), batch_(llama_batch_init(max_tokens, 0, 1)) {}

  // Seconds of one pass over `count` random tokens behind `length` ones.
  double Extend(int length, int count) {
    batch_.n_tokens = count;
    for (int i = 0; i < count; ++i) {
      batch_.token[i] = static_cast<llama_token>(random_() % kVocabulary);
      batch_.pos[i] = length + i;
      batch_.n_seq_id[i] = 1;
      batch_.seq_id[i][0] = 0;
      batch_.logits[i] = i == count - 1;
    }
    const auto start = std::chrono::steady_clock::now();
    if (llama_decode(context_, batch_) != 0) throw std::runtime_error("llama_decode failed");
    llama_synchronize(context_);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  void Fill(int depth) {
    if (depth == 0) return;
    Extend(0, kSeedTokens);
    std::vector<uint8_t> state(StateSize(context_));
    state.resize(GetState(context_, state));
    const std::vector<uint8_t> repeated = StateRepeater(state, depth).Repeat();
    Truncate(context_, 0);
    if (SetState(context_, repeated) == 0) throw std::runtime_error("the repeated state was not taken");
  }

 private:
  llama_context* context_;
  llama_batch batch_;
  std::mt19937 random_{1};
};

double MedianPass(int repeats, double seconds, const std::function<double(int pass)>& pass) {
  std::vector<double> all;
  double total = 0;
  for (int i = 0; i < repeats && total < seconds; ++i) total += all.emplace_back(pass(i));
  std::sort(all.begin(), all.end());
  return all[all.size() / 2];
}

void Run(char** arguments) {
  const int depth = std::atoi(arguments[2]), threads = std::atoi(arguments[3]);
  const int prefill = std::atoi(arguments[6]), decode = std::atoi(arguments[7]);
  const int repeats = std::atoi(arguments[8]);
  const double seconds = std::atof(arguments[9]);
  llama_backend_init();
  llama_model* model = llama_model_load_from_file(arguments[1], llama_model_default_params());
  if (model == nullptr) throw std::runtime_error("the model cannot be loaded");
  llama_context_params params = llama_context_default_params();
  params.n_ctx =
      static_cast<uint32_t>((depth + std::max({prefill, decode + 1, kSeedTokens}) + 255) / 256 * 256);
  params.n_batch = params.n_ubatch = static_cast<uint32_t>(std::max(prefill, kSeedTokens));
  params.n_threads = params.n_threads_batch = threads;
  params.type_k = params.type_v = std::strcmp(arguments[5], "q8_0") == 0 ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;
  SetFlashAttention(params, std::atoi(arguments[4]) != 0);
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) throw std::runtime_error("no context with these flags");

  Timeline timeline(context, std::max(prefill, kSeedTokens));
  timeline.Fill(depth);
  timeline.Extend(depth, 1);  // Warms up.
  const double token =
      MedianPass(decode, seconds, [&](int pass) { return timeline.Extend(depth + 1 + pass, 1); });
  const double chunk = MedianPass(repeats, seconds, [&](int) {
    Truncate(context, depth);
    return timeline.Extend(depth, prefill);
  });
  std::printf("{\"decode\": %.6g, \"prefill\": %.6g}\n", token, chunk);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 10) {
    std::fprintf(stderr,
                 "usage: peer_bench MODEL DEPTH THREADS FLASH CACHE PREFILL DECODE REPEATS SECONDS\n");
    return 2;
  }
  try {
    Run(argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "peer_bench: %s\n", error.what());
    return 1;
  }
}
