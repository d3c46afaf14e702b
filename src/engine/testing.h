// A tiny random model for tests, with every part in play: gates shared by two layers, a window, sinks
// and a selection much shorter than the documents.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/random.h"
#include "engine/session.h"
#include "text/bpe_trainer.h"
#include "text/prompt.h"

namespace sluice::testing {

inline ModelConfig TinyConfig() {
  ModelConfig config;
  config.vocab_size = 300;
  config.hidden_size = 32;
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 1;
  config.head_dim = 8;
  config.context_length = 6000;
  config.logn_length = 100;
  config.window = 24;
  config.num_sinks = 3;
  config.top_k = 12;
  config.gate = {16, 2, 8, 4, 2};
  config.moe = {4, 2, 16, 16};
  return config;
}

// With heads that attention's kernels for bfloat16 take.
inline ModelConfig WideHeadConfig() {
  ModelConfig config = TinyConfig();
  config.head_dim = 64;
  return config;
}

inline Tokenizer TinyTokenizer() {
  BpeTrainerOptions options;
  options.vocab_size = 300;
  options.special_tokens.assign(kSpecialTokens.begin(), kSpecialTokens.end());
  options.show_progress = false;
  options.min_pair_count = 1;
  BpeTrainer trainer(options);
  trainer.AddDocument(
      "the cat sat on the mat and the dog ran after the cat in the garden near the old stone wall of "
      "the town where rain had fallen over roofs and streets since early morning");
  return trainer.Train();
}

inline std::unique_ptr<Engine> TinyEngine(const ModelConfig& config = TinyConfig(), uint64_t seed = 1) {
  std::unique_ptr<Ops> ops = MakeOps("cpu");
  auto model = std::make_unique<Model>(config, *ops);
  model->table().Initialize(model->parameters(), seed);
  return std::make_unique<Engine>(std::move(ops), std::move(model), TinyTokenizer());
}

inline std::vector<int32_t> RandomTokens(int64_t count, uint64_t seed, int64_t vocab = 300) {
  Random random(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<int32_t>(random.Below(static_cast<uint64_t>(vocab))));
  return tokens;
}

// Words of the tiny tokenizer's text, in random order: every part of it is of one domain.
inline std::string RandomText(int64_t words, uint64_t seed) {
  constexpr std::array kWords = {"the", "cat", "sat", "on", "garden", "rain", "near", "old", "stone", "wall"};
  Random random(seed);
  std::string text;
  for (int64_t i = 0; i < words; ++i) {
    text += kWords[random.Below(kWords.size())];
    text += ' ';
  }
  return text;
}

inline std::vector<float> LogitsOf(const Session& session) {
  const TensorView logits = session.logits();
  return {logits.data<float>(), logits.data<float>() + logits.num_elements()};
}

// Behind tokens that a session of their own has read.
inline std::vector<float> FreshLogits(const Engine& engine, const std::vector<int32_t>& tokens,
                                      const SessionOptions& options = {}) {
  Session session(engine, options);
  session.Sync(tokens);
  return LogitsOf(session);
}

}  // namespace sluice::testing
