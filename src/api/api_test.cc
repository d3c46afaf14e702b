// libsluice as a C++ program sees it, with the bundled model: what the engine's own tests do not reach, the
// border itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sluice/sluice.h>

#include <cmath>
#include <string>
#include <thread>
#include <type_traits>

namespace {

using sluice::Engine;
using sluice::Error;
using sluice::ErrorKind;
using sluice::Generation;
using sluice::SamplingOptions;
using sluice::Session;
using sluice::SessionOptions;
using sluice::StopReason;
using ::testing::HasSubstr;

const std::string kModel = SLUICE_SOURCE_DIR "/models/nano";

const Engine& Nano() {
  static const Engine engine(kModel);
  return engine;
}

SessionOptions Small() {
  SessionOptions options;
  options.capacity = 256;
  return options;
}

std::vector<int32_t> Prompt() {
  return Nano().AskPrompt(Nano().Encode("The lock code of the Netherfield strongbox is 70418. It was late."),
                          "What is the lock code of the Netherfield strongbox?");
}

std::vector<float> LogitsOf(const Session& session) {
  const std::span<const float> logits = session.logits();
  return {logits.begin(), logits.end()};
}

// What `work` throws must be an Error of this kind; its message.
template <class Work>
std::string ErrorOf(ErrorKind kind, const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  return "no error";
}

TEST(LibraryTest, SaysWhichItIs) {
  EXPECT_STREQ(sluice::Version(), SLUICE_VERSION);
}

TEST(LibraryTest, ThreadsAreChecked) {
  const int before = sluice::NumThreads();
  EXPECT_GE(before, 1);
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [] { sluice::SetNumThreads(0); }), HasSubstr("0"));
  EXPECT_EQ(sluice::NumThreads(), before);
}

TEST(EngineTest, TellsItsShape) {
  const sluice::ModelInfo info = Nano().info();
  EXPECT_EQ(info.vocab_size, 4096);
  EXPECT_EQ(info.context_length, 135168);
  EXPECT_EQ(info.num_layers, 6);
  EXPECT_EQ(info.hidden_size, 256);
  EXPECT_EQ(info.num_heads, 8);
  EXPECT_EQ(info.num_kv_heads, 1);
  EXPECT_EQ(info.window, 128);
  EXPECT_EQ(info.top_k, 128);
  EXPECT_EQ(info.num_experts, 8);
  EXPECT_EQ(info.experts_per_token, 2);
  EXPECT_GT(info.num_parameters, 8'000'000);
  EXPECT_TRUE(Nano().router_profiles().empty());
  EXPECT_EQ(Nano().sampling().temperature, 0);
  EXPECT_EQ(Nano().sampling().max_tokens, SamplingOptions().max_tokens);
}

TEST(EngineTest, TextGoesOutAndComesBack) {
  const std::string text = "An old £5 note, \xff and <|user|>.";
  const std::vector<int32_t> tokens = Nano().Encode(text);
  EXPECT_EQ(Nano().Decode(tokens), text);
  EXPECT_TRUE(Nano().Encode("").empty());
  EXPECT_EQ(Nano().Decode({}), "");
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [] { Nano().Decode(std::vector<int32_t>{99999}); }),
              HasSubstr("99999"));
  for (const int32_t token : tokens) EXPECT_GE(token, 4) << "a text cannot spell a mark";
}

TEST(EngineTest, PromptsArePutTogetherFromTheirParts) {
  const std::vector<int32_t> document = Nano().Encode("It was late.");
  const std::vector<int32_t> question = Nano().QuestionPrompt("Was it?");
  EXPECT_EQ(Nano().Decode(question), "<|user|>Was it?<|assistant|>");
  std::vector<int32_t> prompt = Nano().AskPrompt(document, "Was it?");
  EXPECT_EQ(Nano().Decode(prompt), "<|document|>It was late.<|user|>Was it?<|assistant|>");
}

TEST(EngineTest, ErrorsNameWhatIsWrong) {
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [] { Engine("no/such/folder"); }), HasSubstr("no/such/folder"));
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [] { Engine(kModel, "law"); }), HasSubstr("\"law\""));
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [] { Engine(kModel, "../x"); }), HasSubstr("../x"));
}

TEST(EngineTest, MovedFromIsAnErrorAndMayBeAssigned) {
  Engine engine = Nano();
  const Engine moved = std::move(engine);
  EXPECT_EQ(moved.info().num_layers, 6);
  // NOLINTBEGIN(bugprone-use-after-move)
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { engine.info(); }), HasSubstr("moved from"));
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { engine.Encode("x"); }), HasSubstr("moved from"));
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { Session session(engine); }), HasSubstr("moved from"));
  // NOLINTEND(bugprone-use-after-move)
  engine = moved;
  EXPECT_EQ(engine.info().num_layers, 6);
}

TEST(SessionTest, AnswersAndKeepsItsEngineAlive) {
  auto engine = std::make_unique<Engine>(kModel);
  Session session(*engine, Small());
  engine.reset();
  session.Sync(Prompt());
  const int64_t before = session.num_tokens();
  std::string streamed;
  const Generation generation =
      session.Generate(Nano().sampling(), [&](std::string_view text) { streamed += text; });
  EXPECT_EQ(generation.text, "The lock code of the Netherfield strongbox is 70418.");
  EXPECT_EQ(streamed, generation.text);
  EXPECT_EQ(Nano().Decode(generation.tokens), generation.text);
  EXPECT_EQ(generation.stop, StopReason::kStopToken);
  EXPECT_EQ(session.num_tokens(), before + static_cast<int64_t>(generation.tokens.size()));
}

TEST(SessionTest, SyncReusesWhatIsShared) {
  const std::vector<int32_t> tokens = Nano().Encode(std::string(600, 'a') + std::string(300, 'b'));
  ASSERT_GT(tokens.size(), 140u);
  const std::vector<int32_t> first(tokens.begin(), tokens.begin() + 140);
  Session session(Nano(), Small());
  EXPECT_EQ(session.Sync(first).computed_tokens, 140);
  const std::vector<float> logits = LogitsOf(session);
  EXPECT_EQ(logits.size(), 4096u);
  EXPECT_EQ(session.Sync(first).computed_tokens, 0);
  // Back to a prefix, and forward again: the same bits.
  const sluice::SyncStats back = session.Sync(std::span(first).first(100));
  EXPECT_EQ(back.reused_tokens, 64);
  EXPECT_EQ(back.computed_tokens, 36);
  EXPECT_EQ(session.num_tokens(), 100);
  for (const int32_t token : std::span(first).subspan(100)) session.Append(token);
  EXPECT_EQ(std::vector<int32_t>(session.tokens().begin(), session.tokens().end()), first);
  EXPECT_EQ(LogitsOf(session), logits);
  session.Clear();
  EXPECT_EQ(session.num_tokens(), 0);
  EXPECT_EQ(session.Sync(first).computed_tokens, 140);
  EXPECT_EQ(LogitsOf(session), logits);
}

TEST(SessionTest, CallbacksMayEndTheCall) {
  struct Stop {};
  SessionOptions options = Small();
  options.chunk_tokens = 16;
  Session session(Nano(), options);
  const std::vector<int32_t> prompt = Prompt();
  std::vector<int64_t> seen;
  EXPECT_THROW(session.Sync(prompt,
                            [&](int64_t done, int64_t total) {
                              EXPECT_EQ(total, static_cast<int64_t>(prompt.size()));
                              seen.push_back(done);
                              if (done == 16) throw Stop();
                            }),
               Stop);
  EXPECT_EQ(seen, (std::vector<int64_t>{0, 16}));
  EXPECT_EQ(session.num_tokens(), 16);
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { session.logits(); }), HasSubstr("no logits"));
  EXPECT_EQ(session.Sync(prompt).reused_tokens, 16);
  EXPECT_THROW(session.Generate({}, [](std::string_view) { throw Stop(); }), Stop);
  // Going on from there is going on from the prompt.
  session.Sync(prompt);
  EXPECT_THAT(session.Generate().text, HasSubstr("70418"));
}

TEST(SessionTest, MovesAndRefusesToBeUsedAfterwards) {
  Session first(Nano(), Small());
  first.Sync(Prompt());
  const std::vector<float> logits = LogitsOf(first);
  Session second = std::move(first);
  EXPECT_EQ(LogitsOf(second), logits);
  // NOLINTBEGIN(bugprone-use-after-move)
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { first.num_tokens(); }), HasSubstr("moved from"));
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { first.Sync(Prompt()); }), HasSubstr("moved from"));
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { first.Append(5); }), HasSubstr("moved from"));
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { first.Clear(); }), HasSubstr("moved from"));
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { first.Generate(); }), HasSubstr("moved from"));
  // NOLINTEND(bugprone-use-after-move)
  first = std::move(second);
  EXPECT_EQ(LogitsOf(first), logits);
  EXPECT_EQ(first.Sync(Prompt()).computed_tokens, 0);
}

TEST(SessionTest, WrongInputIsNamedAndChangesNothing) {
  Session session(Nano(), Small());
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { session.logits(); }), HasSubstr("no logits"));
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { session.Generate(); }), HasSubstr("no logits"));
  session.Sync(Prompt());
  const std::vector<float> logits = LogitsOf(session);
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { session.Sync({}); }), HasSubstr("no tokens"));
  const std::vector<int32_t> too_many(257, 5);
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { session.Sync(too_many); }), HasSubstr("256"));
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { session.Append(4096); }), HasSubstr("4096"));
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { session.Append(-1); }), HasSubstr("-1"));
  SamplingOptions sampling;
  sampling.top_p = 0;
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { session.Generate(sampling); }), HasSubstr("top-p"));
  EXPECT_EQ(LogitsOf(session), logits);
  session.Sync(std::vector<int32_t>(256, 5));
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { session.Append(5); }), HasSubstr("full"));
  EXPECT_EQ(session.Generate().stop, StopReason::kContextFull);
}

TEST(SessionTest, ForksTruncatesSavesAndLoads) {
  const std::string file = ::testing::TempDir() + "sluice_api_test.cache";
  SessionOptions options = Small();
  options.cache_format = sluice::CacheFormat::kBFloat16;
  options.pool_tokens = 1024;
  Session session(Nano(), options);
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { session.Save(file); }), HasSubstr("nothing to save"));
  session.Sync(std::vector<int32_t>(150, 77));
  Session fork = session.Fork();
  fork.Append(5);
  EXPECT_EQ(session.num_tokens(), 150);
  EXPECT_EQ(fork.num_tokens(), 151);
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { session.Truncate(151); }), HasSubstr("151"));
  EXPECT_EQ(session.Truncate(149), 128);
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { session.logits(); }), HasSubstr("no logits"));
  fork.Save(file);
  session.Load(file);
  EXPECT_EQ(session.num_tokens(), 151);
  EXPECT_EQ(LogitsOf(session), LogitsOf(fork));
  options.top_k = 3;
  Session other(Nano(), options);
  EXPECT_THAT(ErrorOf(ErrorKind::kInput, [&] { other.Load(file); }), HasSubstr("top_k 3"));
  std::remove(file.c_str());
}

// Each option reaches the engine: a value out of its range is refused, and one in range changes what it
// should.
TEST(SessionTest, OptionsReachTheEngine) {
  const auto refused = [](auto change) {
    SessionOptions options = Small();
    change(options);
    return ErrorOf(ErrorKind::kInput, [&] { Session session(Nano(), options); });
  };
  EXPECT_THAT(refused([](SessionOptions& options) { options.capacity = 135169; }), HasSubstr("135169"));
  EXPECT_THAT(refused([](SessionOptions& options) { options.chunk_tokens = 4097; }), HasSubstr("4097"));
  EXPECT_THAT(refused([](SessionOptions& options) { options.top_k = -1; }), HasSubstr("top_k"));
  EXPECT_THAT(refused([](SessionOptions& options) { options.gate_mass = 1.5; }), HasSubstr("gate mass"));
  EXPECT_THAT(refused([](SessionOptions& options) { options.min_keys = 0; }), HasSubstr("min keys"));
  EXPECT_THAT(refused([](SessionOptions& options) { options.guarantee = 1; }), HasSubstr("guarantee"));
  EXPECT_THAT(refused([](SessionOptions& options) { options.pool_tokens = 255; }), HasSubstr("255"));
  EXPECT_THAT(refused([](SessionOptions& options) {
                options.guarantee = 0.1;
                options.attention = sluice::Attention::kDense;
              }),
              HasSubstr("guarantee"));

  const std::vector<int32_t> tokens(256, 77);
  const auto logits = [&](auto change) {
    SessionOptions options = Small();
    change(options);
    Session session(Nano(), options);
    EXPECT_EQ(session.capacity(), 256);
    session.Sync(tokens);
    return LogitsOf(session);
  };
  const std::vector<float> sparse = logits([](SessionOptions&) {});
  EXPECT_NE(logits([](SessionOptions& options) { options.attention = sluice::Attention::kDense; }), sparse);
  EXPECT_NE(logits([](SessionOptions& options) { options.top_k = 2; }), sparse);
  EXPECT_EQ(logits([](SessionOptions& options) { options.chunk_tokens = 17; }), sparse);
  EXPECT_EQ(logits([](SessionOptions& options) { options.index = sluice::GateIndex::kFlat; }), sparse);
  EXPECT_NE(logits([](SessionOptions& options) { options.cache_format = sluice::CacheFormat::kInt8; }),
            sparse);
}

TEST(SessionTest, SamplingOptionsReachTheEngine) {
  Session session(Nano(), Small());
  const std::vector<int32_t> prompt = Nano().Encode("It is a truth");
  const auto tokens = [&](const SamplingOptions& sampling) {
    session.Sync(prompt);
    return session.Generate(sampling).tokens;
  };
  SamplingOptions sampling;
  sampling.max_tokens = 20;
  const std::vector<int32_t> greedy = tokens(sampling);
  EXPECT_EQ(greedy.size(), 20u);
  sampling.temperature = 2;
  const std::vector<int32_t> warm = tokens(sampling);
  EXPECT_NE(warm, greedy);
  EXPECT_EQ(tokens(sampling), warm);
  sampling.seed = 1;
  EXPECT_NE(tokens(sampling), warm);
  sampling.top_k = 1;
  EXPECT_EQ(tokens(sampling), greedy);
  sampling.top_k = 0;
  sampling.top_p = 1e-6;
  EXPECT_EQ(tokens(sampling), greedy);
  sampling.top_p = 1;
  sampling.min_p = 1;
  EXPECT_EQ(tokens(sampling), greedy);
  sampling.max_draft = 8;
  EXPECT_EQ(tokens(sampling), greedy);
  const SamplingOptions plain{.max_tokens = 20};
  const auto changed = [&](auto change) {
    SamplingOptions options = plain;
    change(options);
    return tokens(options);
  };
  EXPECT_NE(changed([](SamplingOptions& options) { options.repetition_penalty = 100; }), greedy);
  EXPECT_NE(changed([](SamplingOptions& options) { options.presence_penalty = 2; }), greedy);
  EXPECT_NE(changed([](SamplingOptions& options) { options.frequency_penalty = 2; }), greedy);
  EXPECT_NE(changed([&](SamplingOptions& options) { options.logit_bias[greedy[0]] = -100; }), greedy);
}

TEST(SessionTest, GenerationsTellLogprobs) {
  Session session(Nano(), Small());
  session.Sync(Prompt());
  EXPECT_TRUE(session.Generate({.max_tokens = 3}).logprobs.empty());
  session.Sync(Prompt());
  const Generation generation = session.Generate({.max_tokens = 3, .logprobs = 2});
  ASSERT_EQ(generation.logprobs.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    const sluice::PlaceLogprobs& place = generation.logprobs[i];
    EXPECT_EQ(place.chosen.token, generation.tokens[i]);
    ASSERT_EQ(place.likeliest.size(), 2u);
    EXPECT_EQ(place.likeliest[0].token, place.chosen.token) << "greedy";
    EXPECT_EQ(place.likeliest[0].logprob, place.chosen.logprob);
    EXPECT_LE(place.chosen.logprob, 0);
    EXPECT_LT(place.likeliest[1].logprob, 0);
    EXPECT_LE(place.likeliest[1].logprob, place.likeliest[0].logprob);
  }
}

TEST(SessionTest, TellsWhatItsGuaranteeHasProved) {
  Session plain(Nano(), Small());
  plain.Sync(Prompt());
  EXPECT_FALSE(plain.guarantee());
  SessionOptions options = Small();
  options.guarantee = 0.3;
  options.top_k = 1;
  options.capacity = 1024;
  Session session(Nano(), options);
  EXPECT_EQ(session.guarantee()->share_of_keys_read, 1) << "nothing has run";
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 600; ++i) tokens.push_back(i * i % 3989);
  session.Sync(tokens);
  const sluice::GuaranteeReport report = *session.guarantee();
  EXPECT_GT(report.largest_bound, 0);
  EXPECT_LE(report.largest_bound, 0.3);
  EXPECT_GT(report.mean_bound, 0);
  EXPECT_LT(report.mean_bound, report.largest_bound);
  EXPECT_LT(report.share_of_keys_read, 1);
  const Session moved = std::move(session);
  EXPECT_EQ(moved.guarantee()->largest_bound, report.largest_bound);
  Session fork = moved.Fork();
  EXPECT_EQ(fork.guarantee()->largest_bound, 0);
  fork.Append(77);
  EXPECT_GT(fork.guarantee()->largest_bound, 0) << "a fork is watched too";
}

TEST(SessionTest, SessionsOfOneEngineRunAtTheSameTime) {
  Session alone(Nano(), Small());
  alone.Sync(Prompt());
  const std::vector<float> wanted = LogitsOf(alone);
  const std::string text = alone.Generate().text;
  std::vector<std::thread> threads;
  std::vector<std::vector<float>> logits(3);
  std::vector<std::string> texts(3);
  for (size_t i = 0; i < logits.size(); ++i) {
    threads.emplace_back([&, i] {
      Session session(Nano(), Small());
      session.Sync(Prompt());
      logits[i] = LogitsOf(session);
      texts[i] = session.Generate().text;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(logits, std::vector<std::vector<float>>(3, wanted));
  EXPECT_EQ(texts, std::vector<std::string>(3, text));
}

static_assert(!std::is_copy_constructible_v<Session>);
static_assert(std::is_nothrow_move_constructible_v<Session> && std::is_nothrow_move_assignable_v<Session>);

}  // namespace
