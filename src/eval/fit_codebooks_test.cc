// Fitted codebooks make bounds tighter, within the bytes that they may take.
#include "eval/fit_codebooks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "engine/testing.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing::RandomText;

// Keys of 8 channels take 32 bytes with their values: 4 bytes of codes a layer, on average.
FitCodebooksOptions SmallOptions() {
  FitCodebooksOptions options;
  options.text = {.tokens = 1200, .context = 300};
  options.share = 0.125;
  options.max_stages = 5;
  return options;
}

TEST(FitCodebooksTest, SlackFallsWithinTheBytesAllowed) {
  const auto engine = testing::TinyEngine();
  const FitCodebooksResult result = FitCodebooks(*engine, {RandomText(3000, 1)}, SmallOptions());
  ASSERT_EQ(result.layers.size(), 3u);
  int64_t stages = 0;
  for (size_t layer = 0; layer < result.layers.size(); ++layer) {
    const CodebookFigures& figures = result.layers[layer];
    stages += figures.stages;
    EXPECT_LE(figures.stages, 5);
    EXPECT_EQ(figures.stages, result.codebooks.NumStages()[layer]);
    if (figures.stages > 0) {
      EXPECT_LT(figures.slack, 0.6 * figures.slack_before);
    }
  }
  EXPECT_EQ(stages, 9);
  EXPECT_DOUBLE_EQ(result.share, 0.125);
}

TEST(FitCodebooksTest, AreAFunctionOfTheSeed) {
  const auto engine = testing::TinyEngine();
  FitCodebooksOptions options = SmallOptions();
  const auto fingerprint = [&] {
    return FitCodebooks(*engine, {RandomText(3000, 1)}, options).codebooks.Fingerprint();
  };
  const std::string first = fingerprint();
  EXPECT_EQ(fingerprint(), first);
  options.seed = 2;
  EXPECT_NE(fingerprint(), first);
}

// Keys read over all layers and queries.
class KeysRead : public PassObserver {
 public:
  void OnGuarantee(int64_t, const GuaranteedAttentionArgs& args) override {
    const int32_t* keys = args.keys_read.data<int32_t>();
    total += std::accumulate(keys, keys + args.in.q.dim(0), int64_t{0});
  }
  int64_t total = 0;
};

int64_t TotalRead(const Engine& engine, const std::vector<int32_t>& tokens) {
  SessionOptions options;
  options.guarantee = 0.05;
  Session session(engine, options);
  KeysRead keys;
  session.Observe(&keys);
  session.Sync(tokens);
  return keys.total;
}

TEST(FitCodebooksTest, FewerKeysAreRead) {
  std::unique_ptr<Ops> ops = MakeOps("cpu");
  auto owned = std::make_unique<Model>(testing::TinyConfig(), *ops);
  Model& model = *owned;
  model.table().Initialize(model.parameters(), 1);
  const Engine engine(std::move(ops), std::move(owned), testing::TinyTokenizer());
  const std::vector<int32_t> tokens = engine.tokenizer().Encode(RandomText(900, 2));
  const int64_t before = TotalRead(engine, tokens);
  model.SetKeyCodebooks(FitCodebooks(engine, {RandomText(3000, 1)}, SmallOptions()).codebooks);
  EXPECT_LT(TotalRead(engine, tokens), before);
}

TEST(FitCodebooksTest, WrongOptions) {
  const auto engine = testing::TinyEngine();
  const auto error_of = [&](const auto& change) -> std::string {
    FitCodebooksOptions options = SmallOptions();
    change(options);
    try {
      FitCodebooks(*engine, {RandomText(3000, 1)}, options);
    } catch (const InputError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(error_of([](auto&) {}), "");
  EXPECT_THAT(error_of([](auto& o) { o.share = 0; }), HasSubstr("--share"));
  EXPECT_THAT(error_of([](auto& o) { o.max_stages = 0; }), HasSubstr("--max-stages"));
  EXPECT_THAT(error_of([](auto& o) { o.max_stages = 17; }), HasSubstr("--max-stages"));
  EXPECT_THAT(error_of([](auto& o) { o.text.tokens = 100; }), HasSubstr("--tokens"));
  EXPECT_THAT(error_of([](auto& o) { o.text.tokens = 1 << 20; }), HasSubstr("more text"));
}

}  // namespace
}  // namespace sluice
