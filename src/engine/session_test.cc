// A timeline's logits are the same bits however it was reached: whole or in chunks, fresh or from a
// shared prefix, on one thread or two, token by token.
#include "engine/session.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/threads.h"
#include "engine/generate.h"
#include "engine/testing.h"

namespace sluice {
namespace {

using testing::FreshLogits;
using testing::LogitsOf;
using testing::RandomTokens;
using testing::TinyConfig;
using testing::TinyEngine;
using testing::WideHeadConfig;

void ExpectSameBitsInChunks(const Engine& engine, const std::vector<int64_t>& lengths) {
  for (const AttentionMode mode : {AttentionMode::kSparse, AttentionMode::kDense}) {
    for (const int64_t length : lengths) {
      const std::vector<int32_t> tokens = RandomTokens(length, 3);
      SessionOptions options;
      options.attention = mode;
      options.chunk_tokens = 4096;
      const std::vector<float> whole = FreshLogits(engine, tokens, options);
      for (const int64_t chunk : {17, 128, 1024}) {
        options.chunk_tokens = chunk;
        EXPECT_EQ(FreshLogits(engine, tokens, options), whole) << "length " << length << ", chunk " << chunk;
      }
    }
  }
}

void ExpectSameBitsOnTwoThreads(const Engine& engine) {
  const std::vector<int32_t> tokens = RandomTokens(1500, 4);
  for (const AttentionMode mode : {AttentionMode::kSparse, AttentionMode::kDense}) {
    SessionOptions options;
    options.attention = mode;
    const int threads = NumThreads();
    SetNumThreads(1);
    const std::vector<float> one = FreshLogits(engine, tokens, options);
    SetNumThreads(2);
    const std::vector<float> two = FreshLogits(engine, tokens, options);
    SetNumThreads(threads);
    EXPECT_EQ(one, two);
  }
}

void ExpectSameBitsTokenByToken(const Engine& engine, int64_t length) {
  const std::vector<int32_t> tokens = RandomTokens(length, 5);
  for (const AttentionMode mode : {AttentionMode::kSparse, AttentionMode::kDense}) {
    SessionOptions options;
    options.attention = mode;
    Session session(engine, options);
    for (const int32_t token : tokens) session.Append(token);
    EXPECT_EQ(LogitsOf(session), FreshLogits(engine, tokens, options));
    EXPECT_EQ(session.tokens(), tokens);
  }
}

TEST(SessionTest, ChunksDoNotChangeTheBits) {
  ExpectSameBitsInChunks(*TinyEngine(), {1, 70, 4096, 4200});
}

TEST(SessionTest, ThreadsDoNotChangeTheBits) {
  ExpectSameBitsOnTwoThreads(*TinyEngine());
}

TEST(SessionTest, TokenByTokenIsTheSameAsWhole) {
  ExpectSameBitsTokenByToken(*TinyEngine(), 200);
}

TEST(SessionTest, WideHeadsKeepTheBitsToo) {
  const auto engine = TinyEngine(WideHeadConfig());
  ExpectSameBitsInChunks(*engine, {1, 70, 1500});
  ExpectSameBitsOnTwoThreads(*engine);
  ExpectSameBitsTokenByToken(*engine, 700);
}

TEST(SessionTest, AdaptiveNumberOfKeysKeepsTheBits) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> tokens = RandomTokens(300, 12);
  SessionOptions options;
  const std::vector<float> all = FreshLogits(*engine, tokens, options);
  options.min_keys = 1;
  options.gate_mass = 1;
  EXPECT_EQ(FreshLogits(*engine, tokens, options), all);
  options.gate_mass = 0.5;
  const std::vector<float> whole = FreshLogits(*engine, tokens, options);
  EXPECT_NE(whole, all);
  options.chunk_tokens = 17;
  EXPECT_EQ(FreshLogits(*engine, tokens, options), whole);
  Session walk(*engine, options);
  for (const int32_t token : tokens) walk.Append(token);
  EXPECT_EQ(LogitsOf(walk), whole);
  options.min_keys = 1000;  // More than there are: all that the gate selects.
  EXPECT_EQ(FreshLogits(*engine, tokens, options), all);
}

TEST(SessionTest, SharedPrefixIsReused) {
  const auto engine = TinyEngine();
  std::vector<int32_t> first = RandomTokens(1000, 6);
  std::vector<int32_t> second = first;
  second.resize(900);
  second[850] = (second[850] + 1) % 300;
  Session session(*engine);
  EXPECT_EQ(session.Sync(first).computed_tokens, 1000);
  const SyncStats stats = session.Sync(second);
  EXPECT_EQ(stats.reused_tokens, 850 / KvCache::kPageTokens * KvCache::kPageTokens);
  EXPECT_EQ(stats.computed_tokens, 900 - stats.reused_tokens);
  EXPECT_EQ(LogitsOf(session), FreshLogits(*engine, second));
  // The same again: nothing to do. A prefix of it: at least its last token.
  EXPECT_EQ(session.Sync(second).computed_tokens, 0);
  second.resize(640);
  EXPECT_EQ(session.Sync(second).computed_tokens, 64);
  EXPECT_EQ(LogitsOf(session), FreshLogits(*engine, second));
}

TEST(SessionTest, AnyPathLeadsToTheSameBits) {
  const auto engine = TinyEngine();
  Random random(11);
  SessionOptions options;
  options.capacity = 600;
  options.chunk_tokens = 50;
  Session session(*engine, options);
  std::vector<int32_t> tokens;
  for (int step = 0; step < 60; ++step) {
    switch (random.Below(4)) {
      case 0:  // Change the end.
        tokens.resize(random.Below(tokens.size() + 1));
        [[fallthrough]];
      case 1:
        for (const int32_t token :
             RandomTokens(1 + static_cast<int64_t>(random.Below(90)), random.NextU64())) {
          tokens.push_back(token);
        }
        if (tokens.size() > 590) tokens.resize(200);
        session.Sync(tokens);
        break;
      case 2:
        if (session.num_tokens() == session.capacity()) break;
        tokens.push_back(static_cast<int32_t>(random.Below(300)));
        session.Append(tokens.back());
        break;
      default:
        session.Clear();
        tokens.clear();
    }
    session.cache().CheckIntegrity();
    ASSERT_EQ(session.tokens(), tokens);
    if (tokens.empty()) continue;
    ASSERT_EQ(LogitsOf(session), FreshLogits(*engine, tokens)) << "step " << step;
  }
}

TEST(SessionTest, ScoresAreMinusLogProbabilities) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> tokens = RandomTokens(150, 8);
  SessionOptions options;
  options.chunk_tokens = 64;
  Session session(*engine, options);
  std::vector<float> scores = session.AppendScored(std::span(tokens).first(70));
  const std::vector<float> rest = session.AppendScored(std::span(tokens).subspan(70));
  scores.insert(scores.end(), rest.begin(), rest.end());
  EXPECT_EQ(scores[0], 0);
  Session walk(*engine);
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) {
      double total = 0;
      for (const float logit : LogitsOf(walk)) total += std::exp(static_cast<double>(logit));
      const double wanted = std::log(total) - LogitsOf(walk)[static_cast<size_t>(tokens[i])];
      EXPECT_NEAR(scores[i], wanted, 1e-4) << "token " << i;
    }
    walk.Append(tokens[i]);
  }
  EXPECT_EQ(LogitsOf(session), LogitsOf(walk));
}

TEST(SessionTest, ProgressCountsWhatIsComputed) {
  const auto engine = TinyEngine();
  SessionOptions options;
  options.chunk_tokens = 40;
  Session session(*engine, options);
  std::vector<int64_t> done;
  session.Sync(RandomTokens(100, 9), [&](int64_t now, int64_t total) {
    EXPECT_EQ(total, 100);
    done.push_back(now);
  });
  EXPECT_EQ(done, (std::vector<int64_t>{0, 40, 80, 100}));
}

TEST(SessionTest, ProgressMayEndASync) {
  const auto engine = TinyEngine();
  SessionOptions options;
  options.chunk_tokens = 40;
  Session session(*engine, options);
  const std::vector<int32_t> first = RandomTokens(100, 17);
  std::vector<int32_t> second = first;
  second[90] = (second[90] + 1) % 300;
  second.insert(second.end(), first.begin(), first.end());
  struct Stop {};
  for (const int64_t stop_at : {0, 40}) {
    session.Sync(first);
    EXPECT_TRUE(session.has_logits());
    const auto stop = [&](int64_t done, int64_t) {
      if (done == stop_at) throw Stop();
    };
    EXPECT_THROW(session.Sync(second, stop), Stop);
    EXPECT_FALSE(session.has_logits()) << "they were those of other tokens";
    EXPECT_EQ(session.num_tokens(), 64 + stop_at);
    session.cache().CheckIntegrity();
  }
  EXPECT_EQ(session.Sync(second).reused_tokens, 104);
  EXPECT_EQ(LogitsOf(session), FreshLogits(*engine, second));
}

// Fails the pass in one layer, as a lack of memory would.
class FailingObserver : public PassObserver {
 public:
  void OnAttention(const AttentionStep& step) override {
    if (step.layer == 1) throw SystemError("no memory");
  }
};

TEST(SessionTest, AFailedPassLeavesAnEmptyTimeline) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> tokens = RandomTokens(150, 18);
  FailingObserver failing;
  Session session(*engine);
  for (const size_t before : {0, 1, 64, 130}) {
    if (before > 0) session.Sync(std::span(tokens).first(before));
    session.Observe(&failing);
    EXPECT_THROW(session.Sync(tokens), SystemError);
    session.Observe(nullptr);
    EXPECT_EQ(session.num_tokens(), 0);
    EXPECT_FALSE(session.has_logits());
    session.cache().CheckIntegrity();
    session.Sync(tokens);
    EXPECT_EQ(LogitsOf(session), FreshLogits(*engine, tokens)) << before;
    session.Clear();
  }
}

// Logits of two ways of adding up the same.
void ExpectNear(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-4) << i;
}

TEST(SessionTest, MoreKeysThanThereAreIsAllOfThem) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> tokens = RandomTokens(200, 13);
  SessionOptions options;
  options.attention = AttentionMode::kDense;
  const std::vector<float> dense = FreshLogits(*engine, tokens, options);
  options.attention = AttentionMode::kSparse;
  options.top_k = 200;
  const std::vector<float> all = FreshLogits(*engine, tokens, options);
  ExpectNear(all, dense);
  options.top_k = int64_t{1} << 40;
  options.capacity = 300;
  Session session(*engine, options);
  EXPECT_EQ(session.options().top_k, 300);
  session.Sync(tokens);
  EXPECT_EQ(LogitsOf(session), all);
}

TEST(SessionTest, ContextsShorterThanTheWindowAreReadWhole) {
  const auto engine = TinyEngine();
  const ModelConfig& config = engine->config();
  for (const int64_t length : {int64_t{1}, int64_t{2}, config.num_sinks, config.window - 1, config.window,
                               config.window + config.num_sinks + config.top_k}) {
    const std::vector<int32_t> tokens = RandomTokens(length, 14);
    SessionOptions options;
    options.gate_mass = length % 2 == 0 ? 0.5 : 1;
    options.min_keys = config.top_k;
    const std::vector<float> sparse = FreshLogits(*engine, tokens, options);
    options.attention = AttentionMode::kDense;
    ExpectNear(sparse, FreshLogits(*engine, tokens, options));
  }
}

// A tiny engine one of whose parameters is `value` everywhere.
std::unique_ptr<Engine> DamagedEngine(size_t parameter_idx, float value) {
  std::unique_ptr<Engine> engine = TinyEngine();
  const WeightsTable& table = engine->model().table();
  const TensorView values = table.View(table.parameters()[parameter_idx], engine->model().parameters());
  std::fill_n(values.data<float>(), values.num_elements(), value);
  return engine;
}

TEST(SessionTest, ActivationsThatAreNotFiniteAreAClearError) {
  constexpr size_t kParameters = 14;  // The embedding's and the first layer's.
  for (const float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    int refused = 0;
    for (size_t parameter_idx = 0; parameter_idx < kParameters; ++parameter_idx) {
      const auto engine = DamagedEngine(parameter_idx, bad);
      for (const AttentionMode mode : {AttentionMode::kSparse, AttentionMode::kDense}) {
        SessionOptions options;
        options.attention = mode;
        options.gate_mass = 0.9;
        Session session(*engine, options);
        try {
          session.Sync(RandomTokens(150, 15));
          Generate(session, {0, 0, 1, 0, 3});
          session.AppendScored(RandomTokens(3, 16));
          // Nothing was refused: a value that is not finite was where selection passes it over.
          for (const float logit : LogitsOf(session)) ASSERT_TRUE(std::isfinite(logit)) << parameter_idx;
        } catch (const InputError&) {
          ++refused;
        }
      }
    }
    EXPECT_GE(refused, 4) << bad;
  }
}

TEST(SessionTest, WrongInputLeavesTheTimelineAlone) {
  const auto engine = TinyEngine();
  SessionOptions options;
  options.capacity = 100;
  Session session(*engine, options);
  session.Sync(RandomTokens(80, 10));
  const std::vector<float> before = LogitsOf(session);
  EXPECT_THROW(session.Sync({}), InputError);
  EXPECT_THROW(session.Sync(RandomTokens(101, 10)), InputError);
  EXPECT_THROW(session.Sync(std::vector<int32_t>{5, -1}), InputError);
  EXPECT_THROW(session.Sync(std::vector<int32_t>{5, 300}), InputError);
  EXPECT_EQ(session.num_tokens(), 80);
  EXPECT_EQ(LogitsOf(session), before);
  options.chunk_tokens = 0;
  EXPECT_THROW(Session(*engine, options), InputError);
  for (const double mass : {0.0, -0.5, 1.5, std::nan("")}) {
    options = {};
    options.gate_mass = mass;
    EXPECT_THROW(Session(*engine, options), InputError) << mass;
  }
  options = {};
  options.min_keys = 0;
  EXPECT_THROW(Session(*engine, options), InputError);
  options = {};
  options.top_k = -1;
  EXPECT_THROW(Session(*engine, options), InputError);
  options = {};
  options.capacity = TinyConfig().context_length + 1;
  EXPECT_THROW(Session(*engine, options), InputError);
}

}  // namespace
}  // namespace sluice
