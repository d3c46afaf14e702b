// The scheduler of requests that share a model: which tokens run in the next pass. It is a pure data
// structure: no device, no threads, and no clock but the times it is told, so that the same calls give the
// same plans.
//
// A request waits, is admitted, has its prompt run in chunks (prefill), then one token per step (decode).
//   Admission  by priority, then arrival. All pages that a request may come to need are reserved for it, so
//              that an admitted one always ends; one that does not fit holds back those behind it, so that a
//              large one gets its turn.
//   Decode     Every admitted request that has read its prompt is in every step.
//   Prefill    What is left of a step's tokens, and beside decodes no more than is expected to take
//              SchedulerOptions::decode_delay. The prompts take turns of kTurnTokens: whatever the lengths,
//              two prompts that are read during the same steps are at most one turn apart.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "cache/kv_cache.h"

namespace sluice {

using RequestId = uint64_t;

struct SchedulerOptions {
  int64_t num_pages = 0;       // Pages of KvCache::kPageTokens tokens that all requests together may hold.
  int64_t max_sessions = 16;   // Requests admitted at once.
  int64_t step_tokens = 1024;  // Of all requests together in one step; above max_sessions, so that prompts
                               // move on beside decodes, and at most KvCache::kMaxAppend.
  double decode_delay = 0.05;  // Seconds that prompts may add to a step with decodes in it.
};

// How large a request may become.
struct RequestSize {
  int64_t prompt_tokens = 0;   // At least 1.
  int64_t max_new_tokens = 0;  // At least 0.
  int priority = 0;            // Higher ones are admitted first.
};

// Tokens of one request in a step.
struct StepPart {
  RequestId id = 0;
  int64_t begin = 0;  // Tokens of the request that have run before.
  int64_t count = 0;
  bool is_decode = false;   // Else a chunk of the prompt.
  bool has_logits = false;  // A new token is drawn behind it: a decode, or the prompt's end.

  bool operator==(const StepPart&) const = default;
};

// Each request is in it once: decodes first.
struct StepPlan {
  std::vector<StepPart> parts;
  int64_t num_decodes = 0;
  int64_t prefill_tokens = 0;

  int64_t num_tokens() const { return num_decodes + prefill_tokens; }
  bool operator==(const StepPlan&) const = default;
};

class Scheduler {
 public:
  // Tokens of a prompt's turn.
  static constexpr int64_t kTurnTokens = 64;
  // Prompts go on by this many tokens beside decodes, however long it is expected to take.
  static constexpr int64_t kMinPrefillTokens = 16;

  // Throws InputError for options out of range.
  explicit Scheduler(const SchedulerOptions& options);

  // Pages that a request may come to hold.
  static int64_t PagesFor(const RequestSize& size);
  // Throws InputError for a request of no tokens, or of more pages than there are.
  static void CheckSize(const SchedulerOptions& options, const RequestSize& size);

  // A request that waits from now on. Throws InputError as CheckSize does, and changes nothing then.
  // REQUIRES: `id` is new.
  void Submit(RequestId id, const RequestSize& size);
  // Admits the waiting requests that there is room for, and returns them in order.
  std::vector<RequestId> Admit();
  // The first `tokens` of an admitted request's prompt need not run: its timeline has them from elsewhere.
  // REQUIRES: tokens < prompt_tokens; no step has run any of it.
  void SetCached(RequestId id, int64_t tokens);

  // The next step. Empty if no request is admitted. A plan that is not completed changes nothing but whose
  // turn it is.
  StepPlan Plan();
  // The step has run, in this many seconds; 0: not measured. Requests that were removed since are passed
  // over.
  void Complete(const StepPlan& plan, double seconds);

  // The request has ended or is cancelled, in whatever state; its pages are free. Whether it was there.
  bool Remove(RequestId id);

  int64_t num_waiting() const { return std::ssize(waiting_); }
  int64_t num_admitted() const { return std::ssize(requests_) - num_waiting(); }
  int64_t reserved_pages() const { return reserved_pages_; }
  const SchedulerOptions& options() const { return options_; }

  // Bug if an invariant does not hold.
  void CheckIntegrity() const;

 private:
  enum class State { kWaiting, kPrefill, kDecode };
  struct Request {
    RequestSize size;
    State state = State::kWaiting;
    int64_t arrival = 0;     // Submits before it.
    int64_t num_tokens = 0;  // That have run, or were cached.
  };
  using WaitingKey = std::pair<int, int64_t>;  // −priority, arrival

  static WaitingKey KeyOf(const Request& request) { return {-request.size.priority, request.arrival}; }
  // Tokens of prompts that go into a step beside this many decodes.
  int64_t PrefillLimit(int64_t num_decodes) const;
  void PlanPrefill(StepPlan& plan);
  void Learn(const StepPlan& plan, double seconds);

  SchedulerOptions options_;
  std::map<RequestId, Request> requests_;
  std::map<WaitingKey, RequestId> waiting_;
  std::deque<RequestId> prefill_;  // The first one has the turn.
  int64_t turn_left_ = kTurnTokens;
  std::vector<RequestId> decode_;  // In the order of their prompts' ends.
  int64_t reserved_pages_ = 0;
  int64_t num_submitted_ = 0;
  // Running means; 0: not known yet.
  double decode_seconds_ = 0;         // Of a step without prompts.
  double prefill_token_seconds_ = 0;  // That a prompt's token adds to a step.
};

}  // namespace sluice
