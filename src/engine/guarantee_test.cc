// Sessions under a guarantee: the bits depend on nothing but the tokens, a tolerance near 0 is full
// attention, and the codes kept are those of the keys.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

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
    engine->ops().Scale({model.table().View(parameter, model.parameters()), 0.1});
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

// Codebooks for the tiny model: each stage half as far out as the one before.
KeyCodebooks RandomCodebooks(const ModelConfig& config, int64_t stages) {
  Random random(3);
  std::vector<KeyCodebooks::Layer> layers;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const Shape shape = {config.num_kv_heads, config.head_dim};
    const Shape words = {config.num_kv_heads, stages * KeyCodebook::kCodewords, config.head_dim};
    layers.push_back({Buffer(DType::kF32, shape), Buffer(DType::kF32, shape), Buffer(DType::kF32, words)});
    layers.back().mean.view().Zero();
    std::fill_n(layers.back().weight.view().data<float>(), shape.num_elements(), 1.0f);
    float* values = layers.back().codewords.view().data<float>();
    const int64_t stage_size = KeyCodebook::kCodewords * config.head_dim;
    for (int64_t i = 0; i < words.num_elements(); ++i)
      values[i] =
          static_cast<float>(random.Normal() * std::exp2(-static_cast<double>(i / stage_size % stages)));
  }
  return KeyCodebooks(std::move(layers));
}

std::unique_ptr<Engine> EngineWithCodebooks(int64_t stages) {
  std::unique_ptr<Ops> ops = MakeOps("cpu");
  auto model = std::make_unique<Model>(testing::TinyConfig(), *ops);
  model->table().Initialize(model->parameters(), 1);
  model->SetKeyCodebooks(RandomCodebooks(model->config(), stages));
  return std::make_unique<Engine>(std::move(ops), std::move(model), testing::TinyTokenizer());
}

// Whether the codes of all keys are those that encoding the keys anew gives.
class CodeChecker : public PassObserver {
 public:
  explicit CodeChecker(Ops& ops) : ops_(ops) {}
  void OnGuarantee(int64_t, const GuaranteedAttentionArgs& args) override {
    const int64_t keys = args.in.span.query_offset + args.in.q.dim(0);
    const int64_t heads = args.in.k.dim(1), stages = args.codebook.num_stages();
    const Buffer codes(DType::kU8, {keys, heads, stages}), distance(DType::kU8, {keys, heads});
    const KeyCodeView anew{codes, distance, {}, keys};
    ops_.EncodeKeys({args.in.k, 0, keys, args.codebook, anew});
    for (int64_t s = 0; s < keys; ++s) {
      ++checked;
      wrong += std::equal(anew.Codes(s), anew.Codes(s) + heads * stages, args.codes.Codes(s)) &&
                       std::equal(anew.Distance(s), anew.Distance(s) + heads, args.codes.Distance(s))
                   ? 0
                   : 1;
    }
  }
  int64_t checked = 0, wrong = 0;

 private:
  Ops& ops_;
};

TEST(GuaranteeTest, CodesAreThoseOfTheKeys) {
  const auto engine = EngineWithCodebooks(2);
  CodeChecker checker(engine->ops());
  SessionOptions options = Guarantee(0.3);
  options.chunk_tokens = 100;
  Session session(*engine, options);
  session.Observe(&checker);
  const std::vector<int32_t> tokens = RandomTokens(500, 8);
  session.Sync(tokens);
  session.Truncate(300);
  for (int64_t i = session.num_tokens(); i < 330; ++i) session.Append(tokens[static_cast<size_t>(i)]);
  Session fork = session.Fork();
  fork.Observe(&checker);
  fork.Append(7);
  session.Append(9);
  fork.Append(8);
  const std::filesystem::path file = std::filesystem::path(::testing::TempDir()) / "guarantee.cache";
  session.Save(file);
  Session loaded(*engine, options);
  loaded.Load(file);
  loaded.Observe(&checker);
  loaded.Append(11);
  EXPECT_GT(checker.checked, 5000);
  EXPECT_EQ(checker.wrong, 0);
}

// Codes mean something else by other codebooks: a file is refused.
TEST(GuaranteeTest, FilesBelongToTheirCodebooks) {
  const auto engine = EngineWithCodebooks(2), other = EngineWithCodebooks(1);
  const std::filesystem::path file = std::filesystem::path(::testing::TempDir()) / "codebooks.cache";
  Session session(*engine, Guarantee(0.3));
  session.Sync(RandomTokens(200, 8));
  session.Save(file);
  Session second(*other, Guarantee(0.3));
  EXPECT_THROW(second.Load(file), InputError);
  Session third(*engine, Guarantee(0.3));
  EXPECT_NO_THROW(third.Load(file));
}

// Codes are kept for sessions with a guarantee alone.
TEST(GuaranteeTest, CodesTakeTheirBytes) {
  const auto engine = EngineWithCodebooks(3);
  const KvCacheShape plain = SessionCacheShape(*engine, {});
  const KvCacheShape coded = SessionCacheShape(*engine, Guarantee(0.1));
  EXPECT_EQ(plain.KeyCodeBytesPerPage(), 0);
  EXPECT_EQ(coded.KeyCodeBytesPerPage(), 3 * kPageRows * 4);
  EXPECT_EQ(coded.BytesPerPage(), plain.BytesPerPage() + coded.KeyCodeBytesPerPage());
}

}  // namespace
}  // namespace sluice
