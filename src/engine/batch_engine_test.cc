// A request has the same tokens and logprobs alone and among others; requests are cancelled, fail and wait
// without touching each other.
#include "engine/batch_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "base/threads.h"
#include "engine/testing.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::RandomTokens;
using ::testing::ThrowsMessage;
using testing::TinyConfig;
using testing::TinyEngine;

BatchOptions Options(int64_t max_sessions = 32, int64_t step_tokens = 256, int64_t num_pages = 2000) {
  const auto engine = TinyEngine();
  SessionOptions session;
  session.capacity = 64;
  BatchOptions options;
  options.cache_bytes = num_pages * SessionCacheShape(*engine, session).BytesPerPage();
  options.scheduler.max_sessions = max_sessions;
  options.scheduler.step_tokens = step_tokens;
  return options;
}

BatchRequest MakeRequest(int64_t prompt_tokens, uint64_t seed, int64_t max_tokens = 24) {
  BatchRequest request;
  request.prompt = RandomTokens(prompt_tokens, seed);
  request.sampling.temperature = seed % 3 == 0 ? 0 : 1.2;
  request.sampling.repetition_penalty = seed % 4 == 0 ? 1.3 : 1;
  request.sampling.seed = seed;
  request.sampling.max_tokens = max_tokens;
  request.sampling.logprobs = 3;
  if (seed % 5 == 1) request.session.attention = AttentionMode::kDense;
  if (seed % 5 == 2) request.session.gate_mass = 0.7;
  return request;
}

std::future<BatchResult> Submit(BatchEngine& batch, BatchRequest request, RequestId* id = nullptr) {
  auto promise = std::make_shared<std::promise<BatchResult>>();
  request.on_finish = [promise](BatchResult result) { promise->set_value(std::move(result)); };
  const RequestId given = batch.Submit(std::move(request));
  if (id != nullptr) *id = given;
  return promise->get_future();
}

Generation Alone(const Engine& engine, const BatchRequest& request) {
  SessionOptions options = request.session;
  options.capacity = std::ssize(request.prompt) + request.sampling.max_tokens;
  Session session(engine, options);
  session.Sync(request.prompt);
  return Generate(session, request.sampling);
}

void ExpectSame(const Generation& a, const Generation& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.text, b.text);
  EXPECT_EQ(a.stop, b.stop);
  const auto flat = [](const Generation& generation) {
    std::vector<std::pair<int32_t, float>> all;
    for (const PlaceLogprobs& place : generation.logprobs) {
      all.emplace_back(place.chosen.token, place.chosen.logprob);
      for (const TokenLogprob& token : place.likeliest) all.emplace_back(token.token, token.logprob);
    }
    return all;
  };
  EXPECT_EQ(flat(a), flat(b));
}

TEST(BatchEngineTest, ARequestIsTheSameAloneAndAmong31Others) {
  const auto engine = TinyEngine();
  std::vector<BatchRequest> requests;
  std::vector<Generation> alone;
  for (uint64_t i = 0; i < 32; ++i) {
    requests.push_back(MakeRequest(1 + static_cast<int64_t>(i * i) % 400, i));
    alone.push_back(Alone(*engine, requests.back()));
  }
  const int before = NumThreads();
  for (const int threads : {1, 2}) {
    SetNumThreads(threads);
    for (const int64_t step_tokens : {33, 100, 1024}) {
      BatchEngine batch(*engine, Options(32, step_tokens));
      std::vector<std::future<BatchResult>> results;
      for (const BatchRequest& request : requests) results.push_back(Submit(batch, request));
      for (size_t i = 0; i < results.size(); ++i) {
        const BatchResult result = results[i].get();
        EXPECT_EQ(result.error, nullptr);
        EXPECT_FALSE(result.is_cancelled);
        ExpectSame(result.generation, alone[i]);
      }
    }
  }
  SetNumThreads(before);
}

// Of a greedy request: the likeliest tokens repeat soon, and the first draft is always checked.
BatchRequest MakeDraftingRequest(int64_t prompt_tokens, uint64_t seed, int64_t max_tokens) {
  BatchRequest request = MakeRequest(prompt_tokens, seed, max_tokens);
  request.sampling.temperature = 0;
  request.sampling.repetition_penalty = 1;
  request.sampling.max_draft = 6;
  return request;
}

TEST(BatchEngineTest, ALoneRequestIsDraftedAheadWithTheSameAnswer) {
  const auto engine = TinyEngine();
  BatchEngine batch(*engine, Options());
  for (uint64_t i = 0; i < 5; ++i) {
    const BatchRequest request = MakeDraftingRequest(100, i, 100);
    BatchRequest plain = request;
    plain.sampling.max_draft = 0;
    const BatchResult result = Submit(batch, request).get();
    ExpectSame(result.generation, Alone(*engine, plain));
    EXPECT_GT(result.generation.drafted, 0);
    EXPECT_LE(result.generation.accepted, result.generation.drafted);
    // Each token but the prompt's takes a pass, or was foreseen in one.
    EXPECT_EQ(result.generation.passes + result.generation.accepted,
              std::ssize(result.generation.tokens) - 1);
  }
}

// Others come and go while a draft is open: its checked tokens are used, the rest of it forgotten.
TEST(BatchEngineTest, DraftsSurviveTheCompanyOfOthers) {
  const auto engine = TinyEngine();
  const BatchRequest request = MakeDraftingRequest(100, 1, 200);
  BatchRequest plain = request;
  plain.sampling.max_draft = 0;
  const Generation wanted = Alone(*engine, plain);
  BatchEngine batch(*engine, Options());
  std::vector<std::future<BatchResult>> others;
  std::vector<BatchRequest> sent;
  BatchRequest watched = request;
  int64_t pieces = 0;
  watched.on_text = [&](std::string_view) {
    if (++pieces % 7 != 0 || pieces > 140) return;
    sent.push_back(MakeRequest(40, static_cast<uint64_t>(pieces), 3));
    others.push_back(Submit(batch, sent.back()));
  };
  const BatchResult result = Submit(batch, watched).get();
  ExpectSame(result.generation, wanted);
  EXPECT_GT(result.generation.accepted, 0);
  EXPECT_GT(others.size(), 10u);
  for (size_t i = 0; i < others.size(); ++i) ExpectSame(others[i].get().generation, Alone(*engine, sent[i]));
}

TEST(BatchEngineTest, MoreRequestsThanFitWait) {
  const auto engine = TinyEngine();
  BatchEngine batch(*engine, Options(3, 64, 8));  // Pages for two of the requests below.
  std::vector<std::future<BatchResult>> results;
  std::vector<Generation> alone;
  for (uint64_t i = 0; i < 10; ++i) {
    const BatchRequest request = MakeRequest(200, i, 10);
    alone.push_back(Alone(*engine, request));
    results.push_back(Submit(batch, request));
  }
  for (size_t i = 0; i < results.size(); ++i) ExpectSame(results[i].get().generation, alone[i]);
}

TEST(BatchEngineTest, WhatEarlierRequestsHaveReadIsReused) {
  const auto engine = TinyEngine();
  BatchEngine batch(*engine, Options());
  const BatchRequest first = MakeRequest(500, 4);
  BatchRequest second = first;
  second.prompt.resize(400);
  second.prompt.insert(second.prompt.end(), 30, 7);
  BatchRequest third = MakeRequest(500, 4);
  third.session.attention = AttentionMode::kDense;  // Has other keys.
  EXPECT_EQ(Submit(batch, first).get().reused_tokens, 0);
  for (const auto& [request, reused] : {std::pair(first, 448), {second, 384}, {third, 0}}) {
    const BatchResult result = Submit(batch, request).get();
    EXPECT_EQ(result.reused_tokens, reused);
    ExpectSame(result.generation, Alone(*engine, request));
  }
}

TEST(BatchEngineTest, WhatIsRememberedGivesWay) {
  const auto engine = TinyEngine();
  BatchEngine batch(*engine, Options(4, 64, 12));
  for (uint64_t i = 0; i < 6; ++i) {
    const BatchRequest request = MakeRequest(300, i);
    ExpectSame(Submit(batch, request).get().generation, Alone(*engine, request));
  }
}

TEST(BatchEngineTest, AShortPromptIsAnsweredBesideALongOne) {
  const auto engine = TinyEngine();
  std::vector<std::string> ended;  // Of the engine's thread, until it is over.
  std::promise<void> all_submitted;
  {
    BatchEngine batch(*engine, Options(4, 128));
    const auto submit = [&](BatchRequest request, const std::string& name) {
      request.on_finish = [&ended, name](const BatchResult&) { ended.push_back(name); };
      batch.Submit(std::move(request));
    };
    BatchRequest first = MakeRequest(1, 2, 1);
    first.on_text = [&](std::string_view) { all_submitted.get_future().wait(); };
    submit(first, "first");
    submit(MakeRequest(5000, 3, 2), "long");
    submit(MakeRequest(50, 4, 4), "short");
    all_submitted.set_value();
    batch.Shutdown();
  }
  EXPECT_THAT(ended, ElementsAre("first", "short", "long"));
}

TEST(BatchEngineTest, CancelsInEveryState) {
  const auto engine = TinyEngine();
  BatchEngine batch(*engine, Options(2, 64));
  RequestId decoding_id = 0, reading_id = 0, waiting_id = 0;
  // It cancels the others when they are in the states wanted.
  BatchRequest decoding = MakeRequest(5, 1, 5000);
  decoding.sampling.logit_bias = {{kEndOfText, -100}, {kUser, -100}};
  std::promise<void> all_submitted;
  std::shared_future<void> go = all_submitted.get_future().share();
  int64_t pieces = 0;
  decoding.on_text = [&](std::string_view) {
    go.wait();
    if (++pieces == 3) {
      for (const RequestId id : {decoding_id, reading_id, waiting_id}) batch.Cancel(id);
    }
  };
  auto first = Submit(batch, decoding, &decoding_id);
  auto second = Submit(batch, MakeRequest(5900, 2), &reading_id);
  auto third = Submit(batch, MakeRequest(20, 3), &waiting_id);
  auto fourth = Submit(batch, MakeRequest(20, 4));
  all_submitted.set_value();
  for (auto* result : {&first, &second, &third}) EXPECT_TRUE(result->get().is_cancelled);
  const BatchResult untouched = fourth.get();
  EXPECT_FALSE(untouched.is_cancelled);
  ExpectSame(untouched.generation, Alone(*engine, MakeRequest(20, 4)));
  batch.Cancel(waiting_id);  // Is over.
  batch.Cancel(1000);        // Never was.
}

TEST(BatchEngineTest, WhatACallbackThrowsEndsItsOwnRequest) {
  const auto engine = TinyEngine();
  BatchEngine batch(*engine, Options());
  BatchRequest failing = MakeRequest(30, 1);
  failing.on_text = [](std::string_view) { throw SystemError("the connection is gone"); };
  auto failed = Submit(batch, failing);
  auto other = Submit(batch, MakeRequest(30, 2));
  EXPECT_THAT([&] { std::rethrow_exception(failed.get().error); },
              ThrowsMessage<SystemError>("the connection is gone"));
  ExpectSame(other.get().generation, Alone(*engine, MakeRequest(30, 2)));
}

// Fails its first passes, whoever is in them.
class FailingObserver : public PassObserver {
 public:
  explicit FailingObserver(int64_t times) : left_(times) {}
  void OnRouting(const RoutingStep&) override {
    if (left_-- > 0) throw SystemError("no more memory");
  }

 private:
  int64_t left_;
};

TEST(BatchEngineTest, AFailedPassEndsOnlyWhatFailsAlone) {
  const auto engine = TinyEngine();
  for (const int64_t times : {1, 2}) {
    FailingObserver observer(times);
    BatchEngine batch(*engine, Options(4, 100));
    BatchRequest failing = MakeRequest(120, 1);
    failing.observer = &observer;
    auto other = Submit(batch, MakeRequest(300, 2));
    auto failed = Submit(batch, failing);
    ExpectSame(other.get().generation, Alone(*engine, MakeRequest(300, 2)));
    const BatchResult result = failed.get();
    EXPECT_EQ(result.error != nullptr, times == 2);
    if (times == 1) ExpectSame(result.generation, Alone(*engine, MakeRequest(120, 1)));
  }
}

TEST(BatchEngineTest, ShutdownFinishesAndDestructionCancels) {
  const auto engine = TinyEngine();
  std::future<BatchResult> finished, cancelled;
  {
    BatchEngine batch(*engine, Options());
    finished = Submit(batch, MakeRequest(100, 1));
    batch.Shutdown();
    batch.Shutdown();
  }
  ExpectSame(finished.get().generation, Alone(*engine, MakeRequest(100, 1)));
  {
    BatchEngine batch(*engine, Options());
    BatchRequest endless = MakeRequest(100, 1, 5000);
    endless.sampling.logit_bias = {{kEndOfText, -100}, {kUser, -100}};
    cancelled = Submit(batch, endless);
  }
  EXPECT_TRUE(cancelled.get().is_cancelled);
}

TEST(BatchEngineTest, ManyThreadsSubmitAndCancel) {
  const auto engine = TinyEngine();
  BatchEngine batch(*engine, Options(8, 64));
  std::vector<std::thread> threads;
  std::atomic<int64_t> finished = 0, ended = 0;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t i = 0; i < 10; ++i) {
        BatchRequest request = MakeRequest(40, thread * 10 + i, 5);
        request.on_finish = [&](const BatchResult& result) {
          ++ended;
          if (!result.is_cancelled) ++finished;
        };
        const RequestId id = batch.Submit(std::move(request));
        if (i % 3 == 0) batch.Cancel(id);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  batch.Shutdown();
  EXPECT_EQ(ended, 40);
  EXPECT_GE(finished, 24);
}

TEST(BatchEngineTest, RefusesWhatCannotRun) {
  const auto engine = TinyEngine();
  BatchEngine batch(*engine, Options(32, 256, 10));
  const auto submit = [&](auto change) {
    return [&batch, change] {
      BatchRequest request = MakeRequest(10, 1);
      change(request);
      batch.Submit(std::move(request));
    };
  };
  EXPECT_THAT(submit([](BatchRequest& r) { r.prompt.clear(); }),
              ThrowsMessage<InputError>(HasSubstr("no tokens")));
  EXPECT_THAT(submit([](BatchRequest& r) { r.prompt[3] = 300; }),
              ThrowsMessage<InputError>(HasSubstr("token 300 is outside the vocabulary of 300")));
  EXPECT_THAT(submit([](BatchRequest& r) { r.prompt.resize(6000); }),
              ThrowsMessage<InputError>(HasSubstr("the model's context is 6000 tokens")));
  EXPECT_THAT(submit([](BatchRequest& r) { r.prompt.resize(700); }),
              ThrowsMessage<InputError>(HasSubstr("the cache has room for 10")));
  EXPECT_THAT(submit([](BatchRequest& r) { r.sampling.top_p = 0; }),
              ThrowsMessage<InputError>(HasSubstr("top-p")));
  EXPECT_THAT(submit([](BatchRequest& r) { r.session.gate_mass = 0; }),
              ThrowsMessage<InputError>(HasSubstr("gate mass")));
}

}  // namespace
}  // namespace sluice
