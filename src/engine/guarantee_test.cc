// Sessions under a guarantee: the bits depend on nothing but the tokens, a tolerance near 0 is full
// attention, and what is kept of the blocks is a small share of the keys and values.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/threads.h"
#include "engine/session.h"
#include "engine/testing.h"

namespace sluice {
namespace {

using testing::RandomTokens;
using testing::TinyEngine;

// Bounds and keys read of all passes, layer by layer.
class Recorder : public PassObserver {
 public:
  void OnGuarantee(int64_t layer, const GuaranteedAttentionArgs& args) override {
    const auto i = static_cast<size_t>(layer);
    bounds.resize(std::max(bounds.size(), i + 1));
    keys_read.resize(std::max(keys_read.size(), i + 1));
    const int64_t tokens = args.in.q.dim(0);
    bounds[i].insert(bounds[i].end(), args.bound.data<float>(), args.bound.data<float>() + tokens);
    keys_read[i].insert(keys_read[i].end(), args.keys_read.data<int32_t>(),
                        args.keys_read.data<int32_t>() + tokens);
  }
  std::vector<std::vector<float>> bounds;
  std::vector<std::vector<int32_t>> keys_read;
  bool operator==(const Recorder& other) const {
    return bounds == other.bounds && keys_read == other.keys_read;
  }
};

struct Outcome {
  std::vector<float> logits;
  Recorder recorder;
};

Outcome OutcomeOf(const Engine& engine, const std::vector<int32_t>& tokens, const SessionOptions& options,
                  size_t decoded = 0) {
  Outcome outcome;
  Session session(engine, options);
  session.Observe(&outcome.recorder);
  session.Sync(std::span(tokens).first(tokens.size() - decoded));
  for (size_t i = tokens.size() - decoded; i < tokens.size(); ++i) session.Append(tokens[i]);
  const float* logits = session.logits().data<float>();
  outcome.logits.assign(logits, logits + session.logits().num_elements());
  return outcome;
}

// The tiny model with queries so short that bounds are tight: some blocks can be left out.
std::unique_ptr<Engine> GentleEngine() {
  auto engine = TinyEngine();
  const Model& model = engine->model();
  for (const ParameterInfo& parameter : model.table().parameters()) {
    if (parameter.name.find("q_norm") == std::string::npos) continue;
    engine->ops().Scale({model.table().View(parameter, model.parameters()), 0.2});
  }
  return engine;
}

SessionOptions Guarantee(double epsilon) {
  SessionOptions options;
  options.guarantee = epsilon;
  return options;
}

TEST(GuaranteeTest, ChunksThreadsAndDecodingGiveTheSameBits) {
  const auto engine = GentleEngine();
  const std::vector<int32_t> tokens = RandomTokens(900, 3);
  const int threads = NumThreads();
  for (const double epsilon : {0.3, 0.6}) {
    SessionOptions options = Guarantee(epsilon);
    SetNumThreads(1);
    const Outcome whole = OutcomeOf(*engine, tokens, options);
    SetNumThreads(2);
    for (const int64_t chunk : {17, 64, 200}) {
      options.chunk_tokens = chunk;
      const Outcome other = OutcomeOf(*engine, tokens, options, 5);
      EXPECT_EQ(other.logits, whole.logits) << "chunk " << chunk;
      EXPECT_TRUE(other.recorder == whole.recorder) << "chunk " << chunk;
    }
    int64_t partial = 0;
    for (size_t layer = 0; layer < whole.recorder.bounds.size(); ++layer) {
      for (size_t t = 0; t < tokens.size(); ++t) {
        EXPECT_LE(whole.recorder.bounds[layer][t], epsilon);
        partial += whole.recorder.keys_read[layer][t] <= static_cast<int32_t>(t) ? 1 : 0;
      }
    }
    EXPECT_GT(partial, 100) << "every query read everything: the test shows little";
  }
  SetNumThreads(threads);
}

TEST(GuaranteeTest, LaterTokensChangeNothingBefore) {
  const auto engine = GentleEngine();
  std::vector<int32_t> tokens = RandomTokens(500, 4);
  const Outcome before = OutcomeOf(*engine, tokens, Guarantee(0.5));
  for (size_t i = 300; i < tokens.size(); ++i) tokens[i] = (tokens[i] + 1) % 300;
  const Outcome after = OutcomeOf(*engine, tokens, Guarantee(0.5));
  for (size_t layer = 0; layer < before.recorder.bounds.size(); ++layer) {
    const auto same = [](const auto& a, const auto& b) {
      return std::equal(a.begin(), a.begin() + 300, b.begin());
    };
    EXPECT_TRUE(same(before.recorder.bounds[layer], after.recorder.bounds[layer]));
    EXPECT_TRUE(same(before.recorder.keys_read[layer], after.recorder.keys_read[layer]));
  }
}

TEST(GuaranteeTest, NearlyNothingMissedIsFullAttention) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> tokens = RandomTokens(700, 5);
  SessionOptions dense;
  dense.attention = AttentionMode::kDense;
  const Outcome full = OutcomeOf(*engine, tokens, dense);
  const Outcome proved = OutcomeOf(*engine, tokens, Guarantee(1e-9));
  for (size_t i = 0; i < full.logits.size(); ++i) EXPECT_NEAR(proved.logits[i], full.logits[i], 1e-4);
}

TEST(GuaranteeTest, WrongOptions) {
  const auto engine = TinyEngine();
  for (const double epsilon : {-0.1, 1.0, 2.0, std::nan("")})
    EXPECT_THROW(Session(*engine, Guarantee(epsilon)), InputError) << epsilon;
  SessionOptions dense = Guarantee(0.1);
  dense.attention = AttentionMode::kDense;
  EXPECT_THROW(Session(*engine, dense), InputError);
}

TEST(GuaranteeTest, BlocksTakeAtMostTwoPercentOfKeysAndValues) {
  for (const int64_t head_dim : {8, 64, 128}) {
    for (const int64_t kv_heads : {1, 2}) {
      for (const DType format : {DType::kF32, DType::kBF16, DType::kI8}) {
        const KvCacheShape shape{
            .num_layers = 1, .num_kv_heads = kv_heads, .head_dim = head_dim, .format = format};
        const int64_t keys_and_values = 2 * KeyBlockView::kBlock * KeyRowBytes(format, kv_heads, head_dim);
        EXPECT_LE(static_cast<double>(shape.BytesPerBlock()), 0.02 * static_cast<double>(keys_and_values));
      }
    }
  }
}

}  // namespace
}  // namespace sluice
