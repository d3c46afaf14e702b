// The C header: statuses and messages, structs of other sizes, NULL everywhere, callbacks that stop.
// That it compiles as C11, and that it answers as the program does, is tests/embed.sh.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sluice/sluice.h>
#include <sluice/sluice_c.h>

#include <array>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

namespace {

using ::testing::HasSubstr;

const std::string kModel = SLUICE_SOURCE_DIR "/models/nano";
const std::string kDocument = "The lock code of the Netherfield strongbox is 70418. It was late.";
const std::string kQuestion = "What is the lock code of the Netherfield strongbox?";

struct Tokens {
  Tokens() = default;
  Tokens(const Tokens&) = delete;
  Tokens& operator=(const Tokens&) = delete;
  ~Tokens() { sluice_free(data); }
  int32_t* data = nullptr;
  size_t size = 0;
};

class CApiTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(sluice_engine_load(kModel.c_str(), nullptr, &engine_), SLUICE_OK) << sluice_last_error();
    sluice_session_options options = SLUICE_SESSION_OPTIONS_INIT;
    options.capacity = 256;
    options.chunk_tokens = 16;
    ASSERT_EQ(sluice_session_new(engine_, &options, &session_), SLUICE_OK) << sluice_last_error();
    Tokens document;
    ASSERT_EQ(sluice_encode(engine_, kDocument.data(), kDocument.size(), &document.data, &document.size),
              SLUICE_OK);
    ASSERT_EQ(sluice_ask_prompt(engine_, document.data, document.size, kQuestion.data(), kQuestion.size(),
                                &prompt_.data, &prompt_.size),
              SLUICE_OK);
  }
  void TearDown() override {
    sluice_engine_free(engine_);  // The session lives on.
    EXPECT_EQ(sluice_session_clear(session_), SLUICE_OK);
    sluice_session_free(session_);
  }

  sluice_status Sync() {
    return sluice_session_sync(session_, prompt_.data, prompt_.size, nullptr, nullptr, nullptr);
  }

  sluice_engine* engine_ = nullptr;
  sluice_session* session_ = nullptr;
  Tokens prompt_;
};

TEST(CApiVersionTest, IsThatOfTheHeaders) {
  EXPECT_EQ(sluice_abi_version(), SLUICE_ABI_VERSION);
  EXPECT_STREQ(sluice_version(), SLUICE_VERSION);
}

// The INIT macros are the defaults of the C++ structs.
TEST(CApiVersionTest, DefaultsAreThoseOfTheCppHeader) {
  const sluice_sampling_options sampling = SLUICE_SAMPLING_OPTIONS_INIT;
  const sluice::SamplingOptions cpp_sampling;
  EXPECT_EQ(sampling.temperature, cpp_sampling.temperature);
  EXPECT_EQ(sampling.top_k, cpp_sampling.top_k);
  EXPECT_EQ(sampling.top_p, cpp_sampling.top_p);
  EXPECT_EQ(sampling.seed, cpp_sampling.seed);
  EXPECT_EQ(sampling.max_tokens, cpp_sampling.max_tokens);
  EXPECT_EQ(sampling.min_p, cpp_sampling.min_p);
  EXPECT_EQ(sampling.repetition_penalty, cpp_sampling.repetition_penalty);
  EXPECT_EQ(sampling.presence_penalty, cpp_sampling.presence_penalty);
  EXPECT_EQ(sampling.frequency_penalty, cpp_sampling.frequency_penalty);
  EXPECT_EQ(sampling.logit_bias, nullptr);
  EXPECT_EQ(sampling.num_logit_bias, 0u);
  EXPECT_EQ(sampling.logprobs, -1);
  EXPECT_EQ(sampling.max_draft, cpp_sampling.max_draft);
  EXPECT_FALSE(cpp_sampling.logprobs);
  const sluice_session_options session = SLUICE_SESSION_OPTIONS_INIT;
  const sluice::SessionOptions cpp_session;
  EXPECT_EQ(session.capacity, cpp_session.capacity);
  EXPECT_EQ(session.chunk_tokens, cpp_session.chunk_tokens);
  EXPECT_EQ(session.attention, static_cast<int>(cpp_session.attention));
  EXPECT_EQ(session.index, static_cast<int>(cpp_session.index));
  EXPECT_EQ(session.top_k, cpp_session.top_k);
  EXPECT_EQ(session.gate_mass, cpp_session.gate_mass);
  EXPECT_EQ(session.min_keys, cpp_session.min_keys);
  EXPECT_EQ(session.guarantee, cpp_session.guarantee);
  EXPECT_EQ(session.cache_format, static_cast<int>(cpp_session.cache_format));
  EXPECT_EQ(session.pool_tokens, cpp_session.pool_tokens);
  EXPECT_EQ(static_cast<int>(sluice::CacheFormat::kBFloat16), SLUICE_BFLOAT16);
  EXPECT_EQ(static_cast<int>(sluice::CacheFormat::kInt8), SLUICE_INT8);
  EXPECT_EQ(static_cast<int>(sluice::Attention::kDense), SLUICE_DENSE);
  EXPECT_EQ(static_cast<int>(sluice::GateIndex::kFlat), SLUICE_FLAT);
  EXPECT_EQ(static_cast<int>(sluice::GateIndex::kTree), SLUICE_TREE);
  EXPECT_EQ(static_cast<int>(sluice::StopReason::kStopToken), SLUICE_STOP_TOKEN);
  EXPECT_EQ(static_cast<int>(sluice::StopReason::kMaxTokens), SLUICE_STOP_MAX_TOKENS);
  EXPECT_EQ(static_cast<int>(sluice::StopReason::kContextFull), SLUICE_STOP_CONTEXT_FULL);
}

TEST_F(CApiTest, AnswersAndGivesTheGeneration) {
  sluice_sync_stats stats = SLUICE_SYNC_STATS_INIT;
  ASSERT_EQ(sluice_session_sync(session_, prompt_.data, prompt_.size, nullptr, nullptr, &stats), SLUICE_OK);
  EXPECT_EQ(stats.computed_tokens, static_cast<int64_t>(prompt_.size));
  EXPECT_EQ(stats.struct_size, sizeof(stats));
  std::string streamed;
  const sluice_text_callback stream = [](void* user_data, const char* text, size_t size) {
    static_cast<std::string*>(user_data)->append(text, size);
    return 0;
  };
  sluice_sampling_options sampling = SLUICE_SAMPLING_OPTIONS_INIT;
  ASSERT_EQ(sluice_engine_sampling(engine_, &sampling), SLUICE_OK);
  sluice_generation generation = SLUICE_GENERATION_INIT;
  ASSERT_EQ(sluice_session_generate(session_, &sampling, stream, &streamed, &generation), SLUICE_OK);
  EXPECT_STREQ(generation.text, "The lock code of the Netherfield strongbox is 70418.");
  EXPECT_EQ(streamed, generation.text);
  EXPECT_EQ(generation.text_size, streamed.size());
  EXPECT_EQ(generation.stop, SLUICE_STOP_TOKEN);

  // The timeline is prompt and answer, and the answer's tokens are its text.
  const int32_t* tokens = nullptr;
  size_t size = 0;
  ASSERT_EQ(sluice_session_tokens(session_, &tokens, &size), SLUICE_OK);
  ASSERT_EQ(size, prompt_.size + generation.num_tokens);
  EXPECT_TRUE(std::equal(tokens + prompt_.size, tokens + size, generation.tokens));
  char* text = nullptr;
  ASSERT_EQ(sluice_decode(engine_, generation.tokens, generation.num_tokens, &text, &size), SLUICE_OK);
  EXPECT_STREQ(text, generation.text);
  EXPECT_EQ(size, generation.text_size);
  sluice_free(text);
  sluice_generation_free(&generation);
  EXPECT_EQ(generation.text, nullptr);
  sluice_generation_free(&generation);
}

TEST_F(CApiTest, TellsAboutModelAndSession) {
  sluice_model_info info = SLUICE_MODEL_INFO_INIT;
  ASSERT_EQ(sluice_engine_info(engine_, &info), SLUICE_OK);
  EXPECT_EQ(info.vocab_size, 4096);
  EXPECT_EQ(info.context_length, 135168);
  EXPECT_EQ(info.experts_per_token, 2);
  ASSERT_EQ(Sync(), SLUICE_OK);
  const float* logits = nullptr;
  size_t vocab_size = 0;
  ASSERT_EQ(sluice_session_logits(session_, &logits, &vocab_size), SLUICE_OK);
  EXPECT_EQ(vocab_size, 4096u);
  int64_t capacity = 0;
  ASSERT_EQ(sluice_session_capacity(session_, &capacity), SLUICE_OK);
  EXPECT_EQ(capacity, 256);
  ASSERT_EQ(sluice_session_append(session_, 5), SLUICE_OK);
  Tokens question;
  ASSERT_EQ(sluice_question_prompt(engine_, "Why?", 4, &question.data, &question.size), SLUICE_OK);
  char* text = nullptr;
  size_t size = 0;
  ASSERT_EQ(sluice_decode(engine_, question.data, question.size, &text, &size), SLUICE_OK);
  EXPECT_STREQ(text, "<|user|>Why?<|assistant|>");
  sluice_free(text);
}

TEST_F(CApiTest, ForksGoBackAndComeFromFiles) {
  const std::string file = ::testing::TempDir() + "sluice_c_api_test.cache";
  ASSERT_EQ(Sync(), SLUICE_OK);
  sluice_session* fork = nullptr;
  ASSERT_EQ(sluice_session_fork(session_, &fork), SLUICE_OK);
  int64_t left = -1;
  ASSERT_EQ(sluice_session_truncate(session_, 0, &left), SLUICE_OK);
  EXPECT_EQ(left, 0);
  EXPECT_EQ(sluice_session_truncate(session_, 1, nullptr), SLUICE_INPUT_ERROR);
  ASSERT_EQ(sluice_session_save(fork, file.c_str()), SLUICE_OK) << sluice_last_error();
  ASSERT_EQ(sluice_session_load(session_, file.c_str()), SLUICE_OK) << sluice_last_error();
  const int32_t *tokens = nullptr, *fork_tokens = nullptr;
  size_t size = 0, fork_size = 0;
  ASSERT_EQ(sluice_session_tokens(session_, &tokens, &size), SLUICE_OK);
  ASSERT_EQ(sluice_session_tokens(fork, &fork_tokens, &fork_size), SLUICE_OK);
  EXPECT_EQ(std::vector<int32_t>(tokens, tokens + size),
            std::vector<int32_t>(fork_tokens, fork_tokens + fork_size));
  EXPECT_EQ(size, prompt_.size);
  EXPECT_EQ(sluice_session_load(session_, "no such file"), SLUICE_INPUT_ERROR);
  EXPECT_THAT(sluice_last_error(), HasSubstr("no such file"));
  sluice_session_free(fork);
  std::remove(file.c_str());
  sluice_session_options options = SLUICE_SESSION_OPTIONS_INIT;
  options.cache_format = 3;
  EXPECT_EQ(sluice_session_new(engine_, &options, &fork), SLUICE_INPUT_ERROR);
  EXPECT_THAT(sluice_last_error(), HasSubstr("cache_format is 3"));
}

TEST_F(CApiTest, TellsWhatAGuaranteeHasProved) {
  sluice_guarantee guarantee = SLUICE_GUARANTEE_INIT;
  EXPECT_EQ(sluice_session_guarantee(session_, &guarantee), SLUICE_INPUT_ERROR);
  EXPECT_THAT(sluice_last_error(), HasSubstr("sluice_session_options.guarantee"));
  sluice_session_options options = SLUICE_SESSION_OPTIONS_INIT;
  options.capacity = 1024;
  options.top_k = 1;
  options.guarantee = 0.3;
  sluice_session* session = nullptr;
  ASSERT_EQ(sluice_session_new(engine_, &options, &session), SLUICE_OK) << sluice_last_error();
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 600; ++i) tokens.push_back(i * i % 3989);
  ASSERT_EQ(sluice_session_sync(session, tokens.data(), tokens.size(), nullptr, nullptr, nullptr), SLUICE_OK);
  ASSERT_EQ(sluice_session_guarantee(session, &guarantee), SLUICE_OK) << sluice_last_error();
  EXPECT_GT(guarantee.largest_bound, 0);
  EXPECT_LE(guarantee.largest_bound, 0.3);
  EXPECT_LT(guarantee.mean_bound, guarantee.largest_bound);
  EXPECT_LT(guarantee.share_of_keys_read, 1);
  sluice_session_free(session);
}

TEST_F(CApiTest, AShorterStructIsAnOlderOne) {
  ASSERT_EQ(Sync(), SLUICE_OK);
  sluice_sampling_options sampling = SLUICE_SAMPLING_OPTIONS_INIT;
  sampling.struct_size = offsetof(sluice_sampling_options, max_tokens);
  sampling.max_tokens = -1;  // Beyond its end: the default counts.
  EXPECT_EQ(sluice_session_generate(session_, &sampling, nullptr, nullptr, nullptr), SLUICE_OK);
  sluice_model_info info = SLUICE_MODEL_INFO_INIT;
  info.struct_size = offsetof(sluice_model_info, context_length);
  ASSERT_EQ(sluice_engine_info(engine_, &info), SLUICE_OK);
  EXPECT_EQ(info.vocab_size, 4096);
  EXPECT_EQ(info.context_length, 0) << "beyond its end";
  EXPECT_EQ(info.struct_size, offsetof(sluice_model_info, context_length));
  for (const size_t size : {size_t{0}, sizeof(sampling) + 8}) {
    sampling.struct_size = size;
    EXPECT_EQ(sluice_session_generate(session_, &sampling, nullptr, nullptr, nullptr), SLUICE_INPUT_ERROR);
    EXPECT_THAT(sluice_last_error(), HasSubstr("struct_size is " + std::to_string(size)));
  }
}

TEST_F(CApiTest, LogitBiasAndLogprobs) {
  ASSERT_EQ(Sync(), SLUICE_OK);
  const std::array<sluice_logit_bias, 2> bias = {{{77, 100}, {78, -HUGE_VAL}}};
  sluice_sampling_options sampling = SLUICE_SAMPLING_OPTIONS_INIT;
  sampling.max_tokens = 2;
  sampling.logit_bias = bias.data();
  sampling.num_logit_bias = bias.size();
  sampling.logprobs = 3;
  sluice_generation generation = SLUICE_GENERATION_INIT;
  ASSERT_EQ(sluice_session_generate(session_, &sampling, nullptr, nullptr, &generation), SLUICE_OK);
  ASSERT_EQ(generation.num_tokens, 2u);
  ASSERT_EQ(generation.logprobs_per_token, 4u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(generation.tokens[i], 77) << "forced by its bias";
    const sluice_token_logprob* place = generation.logprobs + 4 * i;
    EXPECT_EQ(place[0].token, 77);
    EXPECT_LT(place[0].logprob, place[1].logprob) << "the model itself thought otherwise";
    EXPECT_GE(place[1].logprob, place[2].logprob);
    EXPECT_GE(place[2].logprob, place[3].logprob);
  }
  sluice_generation_free(&generation);
  EXPECT_EQ(generation.logprobs, nullptr);

  const std::array<sluice_logit_bias, 2> twice = {{{77, 1}, {77, 2}}};
  sampling.logit_bias = twice.data();
  EXPECT_EQ(sluice_session_generate(session_, &sampling, nullptr, nullptr, nullptr), SLUICE_INPUT_ERROR);
  EXPECT_THAT(sluice_last_error(), HasSubstr("token 77 twice"));
  sampling.logit_bias = nullptr;
  EXPECT_EQ(sluice_session_generate(session_, &sampling, nullptr, nullptr, nullptr), SLUICE_INPUT_ERROR);
  EXPECT_THAT(sluice_last_error(), HasSubstr("logit_bias is NULL"));
}

TEST_F(CApiTest, CallbacksMayStop) {
  const sluice_progress_callback at_16 = [](void* user_data, int64_t done, int64_t total) {
    *static_cast<int64_t*>(user_data) = total;
    return done == 16 ? 1 : 0;
  };
  int64_t total = 0;
  EXPECT_EQ(sluice_session_sync(session_, prompt_.data, prompt_.size, at_16, &total, nullptr),
            SLUICE_STOPPED);
  EXPECT_THAT(sluice_last_error(), HasSubstr("stopped"));
  EXPECT_EQ(total, static_cast<int64_t>(prompt_.size));
  const int32_t* tokens = nullptr;
  size_t size = 0;
  ASSERT_EQ(sluice_session_tokens(session_, &tokens, &size), SLUICE_OK);
  EXPECT_EQ(size, 16u);
  EXPECT_EQ(sluice_session_generate(session_, nullptr, nullptr, nullptr, nullptr), SLUICE_INPUT_ERROR);
  ASSERT_EQ(Sync(), SLUICE_OK);
  const sluice_text_callback at_once = [](void*, const char*, size_t) { return -1; };
  EXPECT_EQ(sluice_session_generate(session_, nullptr, at_once, nullptr, nullptr), SLUICE_STOPPED);
}

TEST_F(CApiTest, ErrorsNameWhatIsWrong) {
  sluice_engine* engine = nullptr;
  EXPECT_EQ(sluice_engine_load("no/such/folder", nullptr, &engine), SLUICE_INPUT_ERROR);
  EXPECT_THAT(sluice_last_error(), HasSubstr("no/such/folder"));
  EXPECT_EQ(sluice_engine_load(kModel.c_str(), "law", &engine), SLUICE_INPUT_ERROR);
  EXPECT_THAT(sluice_last_error(), HasSubstr("\"law\""));
  EXPECT_EQ(engine, nullptr);
  EXPECT_EQ(sluice_set_num_threads(-3), SLUICE_INPUT_ERROR);
  EXPECT_THAT(sluice_last_error(), HasSubstr("-3"));
  sluice_session_options options = SLUICE_SESSION_OPTIONS_INIT;
  sluice_session* session = nullptr;
  options.attention = 7;
  EXPECT_EQ(sluice_session_new(engine_, &options, &session), SLUICE_INPUT_ERROR);
  EXPECT_THAT(sluice_last_error(), HasSubstr("attention is 7"));
  options.attention = SLUICE_DENSE;
  options.index = -1;
  EXPECT_EQ(sluice_session_new(engine_, &options, &session), SLUICE_INPUT_ERROR);
  EXPECT_THAT(sluice_last_error(), HasSubstr("index is -1"));
  options.index = SLUICE_TREE;
  options.capacity = 135169;
  EXPECT_EQ(sluice_session_new(engine_, &options, &session), SLUICE_INPUT_ERROR);
  EXPECT_THAT(sluice_last_error(), HasSubstr("135169"));
  EXPECT_EQ(session, nullptr);
}

TEST_F(CApiTest, NullIsNamed) {
  const auto refused = [](sluice_status status, const char* name) {
    EXPECT_EQ(status, SLUICE_INPUT_ERROR) << name;
    EXPECT_THAT(sluice_last_error(), HasSubstr(std::string(name) + " is NULL"));
  };
  Tokens out;
  refused(sluice_engine_load(nullptr, nullptr, &engine_), "folder");
  refused(sluice_engine_load(kModel.c_str(), nullptr, nullptr), "engine");
  refused(sluice_engine_info(engine_, nullptr), "info");
  refused(sluice_engine_sampling(nullptr, nullptr), "engine");
  refused(sluice_encode(engine_, nullptr, 3, &out.data, &out.size), "text");
  refused(sluice_encode(engine_, "abc", 3, nullptr, &out.size), "result");
  refused(sluice_encode(engine_, "abc", 3, &out.data, nullptr), "size");
  refused(sluice_decode(engine_, nullptr, 3, nullptr, nullptr), "tokens");
  refused(sluice_ask_prompt(engine_, nullptr, 3, "", 0, &out.data, &out.size), "document");
  refused(sluice_question_prompt(engine_, nullptr, 3, &out.data, &out.size), "question");
  refused(sluice_session_new(engine_, nullptr, nullptr), "session");
  refused(sluice_session_sync(nullptr, prompt_.data, prompt_.size, nullptr, nullptr, nullptr), "session");
  refused(sluice_session_sync(session_, nullptr, 3, nullptr, nullptr, nullptr), "tokens");
  refused(sluice_session_logits(session_, nullptr, &out.size), "logits");
  refused(sluice_session_append(nullptr, 5), "session");
  refused(sluice_session_truncate(nullptr, 5, nullptr), "session");
  refused(sluice_session_fork(session_, nullptr), "fork");
  refused(sluice_session_save(session_, nullptr), "file");
  refused(sluice_session_load(nullptr, "x"), "session");
  refused(sluice_session_guarantee(session_, nullptr), "guarantee");
  refused(sluice_session_generate(nullptr, nullptr, nullptr, nullptr, nullptr), "session");
  sluice_engine_free(nullptr);
  sluice_session_free(nullptr);
  sluice_generation_free(nullptr);
  sluice_free(nullptr);
  // NULL of size 0 is no tokens.
  EXPECT_EQ(sluice_encode(engine_, nullptr, 0, &out.data, &out.size), SLUICE_OK);
  EXPECT_EQ(out.size, 0u);
}

TEST_F(CApiTest, EveryThreadHasItsOwnMessage) {
  EXPECT_EQ(sluice_set_num_threads(-3), SLUICE_INPUT_ERROR);
  std::thread([] {
    EXPECT_STREQ(sluice_last_error(), "");
    EXPECT_EQ(sluice_set_num_threads(-4), SLUICE_INPUT_ERROR);
    EXPECT_THAT(sluice_last_error(), HasSubstr("-4"));
  }).join();
  EXPECT_THAT(sluice_last_error(), HasSubstr("-3"));
}

}  // namespace
