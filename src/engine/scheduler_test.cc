// Random arrivals, cancellations and early ends: every request ends, pages balance, no step exceeds its
// limits, prompts get equal shares, and the same calls give the same plans.
#include "engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <optional>

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr double kDecodeSeconds = 0.01;
constexpr double kPrefillTokenSeconds = 0.001;

// What a machine would take for a step.
double SecondsOf(const StepPlan& plan) {
  return (plan.num_decodes > 0 ? kDecodeSeconds : 0) +
         kPrefillTokenSeconds * static_cast<double>(plan.prefill_tokens);
}

// One request of a simulation and what became of it.
struct Client {
  RequestSize size;
  int64_t arrives = 0;               // Step.
  int64_t new_tokens = 0;            // It ends by itself after so many.
  std::optional<int64_t> cancelled;  // Step.
  int64_t cached = 0;
  int64_t ran = 0;
  int64_t drawn = 0;
  bool is_admitted = false;
  bool is_over = false;
};

struct Workload {
  SchedulerOptions options;
  std::vector<Client> clients;
};

Workload RandomWorkload() {
  Workload work;
  work.options.max_sessions = *rc::gen::inRange<int64_t>(1, 9);
  work.options.step_tokens = work.options.max_sessions + *rc::gen::inRange<int64_t>(1, 600);
  work.options.num_pages = *rc::gen::inRange<int64_t>(20, 200);
  work.options.decode_delay = *rc::gen::element(0.0, 0.03, 0.3);
  const auto count = *rc::gen::inRange<int64_t>(1, 30);
  for (int64_t i = 0; i < count; ++i) {
    Client client;
    client.size.prompt_tokens =
        *rc::gen::oneOf(rc::gen::inRange<int64_t>(1, 100), rc::gen::inRange<int64_t>(1, 1200));
    client.size.max_new_tokens = *rc::gen::inRange<int64_t>(0, 60);
    client.size.priority = *rc::gen::inRange(0, 3);
    client.arrives = *rc::gen::inRange<int64_t>(0, 60);
    client.new_tokens = *rc::gen::inRange<int64_t>(0, client.size.max_new_tokens + 1);
    client.cached =
        *rc::gen::oneOf(rc::gen::just<int64_t>(0), rc::gen::inRange<int64_t>(0, client.size.prompt_tokens));
    if (*rc::gen::inRange(0, 4) == 0) client.cancelled = client.arrives + *rc::gen::inRange<int64_t>(0, 40);
    work.clients.push_back(client);
  }
  return work;
}

// Plays an engine's part, and checks every plan.
class Simulation {
 public:
  explicit Simulation(const Workload& work) : scheduler_(work.options), clients_(work.clients) {}

  // The plans of all steps until every request is over.
  std::vector<StepPlan> Run() {
    std::vector<StepPlan> plans;
    // Every step runs a token of a request that is there; idle ones wait for arrivals.
    int64_t most_steps = 100;
    for (const Client& client : clients_)
      most_steps += client.size.prompt_tokens + client.size.max_new_tokens;
    for (step_ = 0; num_over_ < std::ssize(clients_); ++step_) {
      SLUICE_CHECK_LT(step_, most_steps);
      Arrive();
      for (const RequestId id : scheduler_.Admit()) {
        clients_[id].is_admitted = true;
        if (clients_[id].cached > 0) scheduler_.SetCached(id, clients_[id].cached);
        clients_[id].ran = clients_[id].cached;
      }
      scheduler_.CheckIntegrity();
      StepPlan plan = scheduler_.Plan();
      CheckPlan(plan);
      if (step_ % 7 == 3) plan = scheduler_.Plan();  // The pass failed: it is planned again.
      CheckPlan(plan);
      Cancel();
      scheduler_.Complete(plan, SecondsOf(plan));
      scheduler_.CheckIntegrity();
      Draw(plan);
      scheduler_.CheckIntegrity();
      plans.push_back(plan);
    }
    SLUICE_CHECK_EQ(scheduler_.reserved_pages(), 0);
    SLUICE_CHECK_EQ(scheduler_.num_admitted() + scheduler_.num_waiting(), 0);
    return plans;
  }

 private:
  void Arrive() {
    for (size_t id = 0; id < clients_.size(); ++id) {
      if (clients_[id].arrives == step_) scheduler_.Submit(id, clients_[id].size);
    }
  }
  void End(RequestId id) {
    SLUICE_CHECK(scheduler_.Remove(id));
    SLUICE_CHECK(!scheduler_.Remove(id));
    clients_[id].is_over = true;
    ++num_over_;
  }
  void Cancel() {
    for (size_t id = 0; id < clients_.size(); ++id) {
      if (clients_[id].cancelled == step_ && !clients_[id].is_over) End(id);
    }
  }
  void CheckPlan(const StepPlan& plan) const {
    const SchedulerOptions& options = scheduler_.options();
    SLUICE_CHECK_LE(plan.num_tokens(), options.step_tokens);
    SLUICE_CHECK_EQ(plan.parts.empty(), scheduler_.num_admitted() == 0);
    int64_t decodes = 0, tokens = 0;
    std::vector<bool> is_in(clients_.size());
    for (const StepPart& part : plan.parts) {
      const Client& client = clients_[part.id];
      SLUICE_CHECK(client.is_admitted && !client.is_over && !is_in[part.id]);
      is_in[part.id] = true;
      SLUICE_CHECK_EQ(part.begin, client.ran);
      SLUICE_CHECK_EQ(part.is_decode, client.ran >= client.size.prompt_tokens);
      SLUICE_CHECK(part.count > 0);
      SLUICE_CHECK(part.is_decode || part.begin + part.count <= client.size.prompt_tokens);
      SLUICE_CHECK_EQ(part.has_logits, part.begin + part.count >= client.size.prompt_tokens);
      decodes += part.is_decode;
      tokens += part.count;
    }
    // Decodes are never left out.
    for (size_t id = 0; id < clients_.size(); ++id) {
      const Client& client = clients_[id];
      const bool decodes_now =
          client.is_admitted && !client.is_over && client.ran >= client.size.prompt_tokens;
      SLUICE_CHECK(!decodes_now || is_in[id]);
    }
    SLUICE_CHECK_EQ(plan.num_decodes, decodes);
    SLUICE_CHECK_EQ(plan.num_tokens(), tokens);
  }
  void Draw(const StepPlan& plan) {
    for (const StepPart& part : plan.parts) {
      Client& client = clients_[part.id];
      if (client.is_over) continue;
      client.ran += part.count;
      if (!part.has_logits) continue;
      if (client.drawn == client.new_tokens) {
        End(part.id);
      } else {
        ++client.drawn;
      }
    }
  }

  Scheduler scheduler_;
  std::vector<Client> clients_;
  int64_t step_ = 0;
  int64_t num_over_ = 0;
};

TEST(SchedulerTest, EveryRequestEndsWithinTheLimits) {
  const bool holds = rc::check("random requests end, and the same ones give the same plans", [] {
    const Workload work = RandomWorkload();
    RC_ASSERT(Simulation(work).Run() == Simulation(work).Run());
  });
  EXPECT_TRUE(holds);
}

SchedulerOptions Options(int64_t step_tokens = 512) {
  SchedulerOptions options;
  options.num_pages = 10000;
  options.step_tokens = step_tokens;
  return options;
}

TEST(SchedulerTest, PromptsThatAreReadTogetherAreOneTurnApart) {
  const bool holds = rc::check("no two prompts of the same steps are more than a turn apart", [] {
    const auto count = *rc::gen::inRange<size_t>(2, 10);
    Scheduler scheduler(Options(*rc::gen::inRange<int64_t>(17, 700)));
    for (size_t id = 0; id < count; ++id) {
      scheduler.Submit(id, {*rc::gen::element<int64_t>(40, 300, 5000), 0});
    }
    scheduler.Admit();
    std::vector<int64_t> ran(count);
    for (bool all_there = true; all_there;) {
      const StepPlan plan = scheduler.Plan();
      scheduler.Complete(plan, SecondsOf(plan));
      for (const StepPart& part : plan.parts) {
        ran[part.id] += part.count;
        all_there = all_there && !part.has_logits;
      }
      if (!all_there) break;
      const auto [least, most] = std::minmax_element(ran.begin(), ran.end());
      RC_ASSERT(*most - *least <= Scheduler::kTurnTokens);
    }
  });
  EXPECT_TRUE(holds);
}

TEST(SchedulerTest, AShortPromptPassesALongOne) {
  Scheduler scheduler(Options());
  scheduler.Submit(1, {131072, 8});
  scheduler.Admit();
  scheduler.Complete(scheduler.Plan(), 0.5);
  scheduler.Submit(2, {200, 8});
  scheduler.Admit();
  const StepPlan plan = scheduler.Plan();
  EXPECT_THAT(plan.parts, ElementsAre(StepPart{1, 512, 312, false, false}, StepPart{2, 0, 200, false, true}));
}

TEST(SchedulerTest, PromptsDelayDecodesByTheBudget) {
  SchedulerOptions options = Options(1000);
  options.decode_delay = 0.1;
  Scheduler scheduler(options);
  scheduler.Submit(1, {10, 1000});
  scheduler.Admit();
  scheduler.Complete(scheduler.Plan(), 0.01);
  scheduler.Submit(2, {100000, 10});
  const auto next = [&] {
    scheduler.Admit();
    const StepPlan plan = scheduler.Plan();
    EXPECT_EQ(plan.num_decodes, 1);
    scheduler.Complete(plan, SecondsOf(plan));
    return plan;
  };
  for (int step = 0; step < 20; ++step) next();
  // At 1 ms a token.
  EXPECT_NEAR(static_cast<double>(next().prefill_tokens), 100, 15);
}

TEST(SchedulerTest, PromptsGoOnBesideDecodesHoweverSlowTheyAre) {
  SchedulerOptions options = Options();
  options.decode_delay = 0;
  Scheduler scheduler(options);
  scheduler.Submit(1, {10, 1000});
  scheduler.Admit();
  scheduler.Complete(scheduler.Plan(), 100);
  scheduler.Submit(2, {1000, 10});
  scheduler.Admit();
  EXPECT_EQ(scheduler.Plan().prefill_tokens, Scheduler::kMinPrefillTokens);
}

TEST(SchedulerTest, AdmitsByPriorityThenArrivalAndLetsNoSmallOnePassALargeOne) {
  SchedulerOptions options = Options();
  options.num_pages = 10;
  Scheduler scheduler(options);
  scheduler.Submit(1, {64 * 6, 0});
  EXPECT_THAT(scheduler.Admit(), ElementsAre(1));
  scheduler.Submit(2, {64 * 5, 0});
  scheduler.Submit(3, {64, 0});
  scheduler.Submit(4, {64, 0, 1});
  EXPECT_THAT(scheduler.Admit(), ElementsAre(4));  // 2 needs more than the 3 pages left, and 3 is behind it.
  EXPECT_TRUE(scheduler.Remove(1));
  EXPECT_THAT(scheduler.Admit(), ElementsAre(2, 3));
}

TEST(SchedulerTest, AdmitsNoMoreThanMaxSessions) {
  SchedulerOptions options = Options();
  options.max_sessions = 2;
  Scheduler scheduler(options);
  for (RequestId id = 0; id < 3; ++id) scheduler.Submit(id, {1, 1});
  EXPECT_THAT(scheduler.Admit(), ElementsAre(0, 1));
  EXPECT_THAT(scheduler.Admit(), ElementsAre());
  scheduler.Remove(0);
  EXPECT_THAT(scheduler.Admit(), ElementsAre(2));
}

TEST(SchedulerTest, WhatIsCachedIsNotReadAgain) {
  Scheduler scheduler(Options());
  scheduler.Submit(1, {100, 1});
  scheduler.Admit();
  scheduler.SetCached(1, 64);
  EXPECT_THAT(scheduler.Plan().parts, ElementsAre(StepPart{1, 64, 36, false, true}));
}

TEST(SchedulerTest, RefusesWhatCannotRun) {
  SchedulerOptions options = Options();
  options.num_pages = 4;
  Scheduler scheduler(options);
  const auto submit = [&](int64_t prompt, int64_t max_new) {
    return [&scheduler, prompt, max_new] { scheduler.Submit(1, {prompt, max_new}); };
  };
  EXPECT_THAT(submit(0, 1), ThrowsMessage<InputError>(HasSubstr("at least 1 token")));
  EXPECT_THAT(submit(1, -1), ThrowsMessage<InputError>(HasSubstr("must not be negative, not -1")));
  EXPECT_THAT(submit(200, 57), ThrowsMessage<InputError>(HasSubstr("may need 5 pages of 64 tokens")));
  EXPECT_EQ(scheduler.num_waiting(), 0);
  submit(200, 56)();
  EXPECT_THAT(scheduler.Admit(), ElementsAre(1));
}

TEST(SchedulerTest, RefusesOptionsOutOfRange) {
  const auto make = [](auto change) {
    return [change] {
      SchedulerOptions options = Options();
      change(options);
      Scheduler scheduler(options);
    };
  };
  EXPECT_THAT(make([](SchedulerOptions& o) { o.num_pages = 0; }),
              ThrowsMessage<InputError>(HasSubstr("at least 1 page, not 0")));
  EXPECT_THAT(make([](SchedulerOptions& o) { o.max_sessions = 0; }),
              ThrowsMessage<InputError>(HasSubstr("sessions at once must be at least 1, not 0")));
  for (const int64_t tokens : {int64_t{16}, KvCache::kMaxAppend + 1}) {
    EXPECT_THAT(make([&](SchedulerOptions& o) { o.step_tokens = tokens; }),
                ThrowsMessage<InputError>(HasSubstr("must be from 17")));
  }
  EXPECT_THAT(make([](SchedulerOptions& o) { o.decode_delay = -1; }),
              ThrowsMessage<InputError>(HasSubstr("at least 0 seconds, not -1")));
}

}  // namespace
}  // namespace sluice
