// Causality: tokens after position p change no bit of the logits at or before p, in prefill by any chunks and
// in decoding, however attention reads its keys.
#include <gtest/gtest.h>

#include <cstring>

#include "engine/session.h"
#include "engine/testing.h"

namespace sluice {
namespace {

using testing::RandomTokens;
using testing::TinyConfig;
using testing::TinyEngine;

constexpr int64_t kTokens = 400;

// A way of reading keys.
struct Way {
  std::string name;
  bool bias = false;
  PassOptions pass;
};

std::vector<Way> Ways() {
  std::vector<Way> ways;
  for (const bool bias : {false, true}) {
    const std::string suffix = bias ? ", gate bias" : "";
    Way way{"flat" + suffix, bias, {}};
    way.pass.top_k = TinyConfig().top_k;
    ways.push_back(way);
    way.name = "adaptive" + suffix;
    way.pass.gate_mass = 0.6;
    way.pass.min_keys = 2;
    ways.push_back(way);
    way.name = "dense" + suffix;
    way.pass = {};
    way.pass.attention = AttentionMode::kDense;
    ways.push_back(way);
  }
  return ways;
}

std::unique_ptr<Engine> EngineOf(const Way& way) {
  ModelConfig config = TinyConfig();
  config.gate.bias = way.bias;
  return TinyEngine(config);
}

// Logits behind every token, [tokens, vocab], read `chunk` tokens at a time.
std::vector<float> AllLogits(const Engine& engine, const Way& way, const std::vector<int32_t>& tokens,
                             int64_t chunk) {
  const int64_t vocab = engine.config().vocab_size;
  KvCache cache(engine.ops(), engine.model().CacheShape(), kTokens);
  PassMemory memory;
  std::vector<float> logits(tokens.size() * static_cast<size_t>(vocab));
  const auto size = static_cast<int64_t>(tokens.size());
  for (int64_t begin = 0; begin < size; begin += chunk) {
    const int64_t count = std::min(chunk, size - begin);
    const TimelinePart part = {TensorView::Of(tokens.data() + begin, {count}), &way.pass, &cache, nullptr,
                               count};
    engine.model().Extend(memory, {&part, 1}, TensorView::Of(logits.data() + begin * vocab, {count, vocab}));
  }
  return logits;
}

bool SameRows(const std::vector<float>& a, const std::vector<float>& b, int64_t begin, int64_t end,
              int64_t vocab) {
  return std::memcmp(a.data() + begin * vocab, b.data() + begin * vocab,
                     static_cast<size_t>((end - begin) * vocab) * sizeof(float)) == 0;
}

// The tokens of `tokens` up to and with p, and others behind.
std::vector<int32_t> ChangedAfter(std::vector<int32_t> tokens, int64_t p) {
  for (size_t i = static_cast<size_t>(p) + 1; i < tokens.size(); ++i)
    tokens[i] = (tokens[i] + 1 + static_cast<int32_t>(i % 7)) % 300;
  return tokens;
}

TEST(CausalityTest, LaterTokensChangeNoBitBefore) {
  const std::vector<int32_t> tokens = RandomTokens(kTokens, 21);
  for (const Way& way : Ways()) {
    const auto engine = EngineOf(way);
    const int64_t vocab = engine->config().vocab_size;
    const std::vector<float> wanted = AllLogits(*engine, way, tokens, kTokens);
    for (const int64_t p : {0, 26, 63, 64, 200, 398}) {
      const std::vector<int32_t> changed = ChangedAfter(tokens, p);
      for (const int64_t chunk : {kTokens, int64_t{37}}) {
        const std::vector<float> logits = AllLogits(*engine, way, changed, chunk);
        EXPECT_TRUE(SameRows(logits, wanted, 0, p + 1, vocab)) << way.name << ", p " << p << ", " << chunk;
        EXPECT_FALSE(SameRows(logits, wanted, p + 1, p + 2, vocab)) << way.name << ", p " << p;
      }
    }
  }
}

TEST(CausalityTest, DecodingAtPIsReadingThePrefixOfAnyFuture) {
  const std::vector<int32_t> tokens = RandomTokens(kTokens, 22);
  for (const Way& way : Ways()) {
    const auto engine = EngineOf(way);
    const int64_t vocab = engine->config().vocab_size;
    const std::vector<float> decoded = AllLogits(*engine, way, tokens, 1);
    for (const int64_t p : {50, 170, 398}) {
      const std::vector<float> read = AllLogits(*engine, way, ChangedAfter(tokens, p), kTokens);
      EXPECT_TRUE(SameRows(decoded, read, 0, p + 1, vocab)) << way.name << ", p " << p;
    }
  }
}

}  // namespace
}  // namespace sluice
