// Many requests answered at once: one thread owns the model and runs the steps that the scheduler plans
// (engine/scheduler.h), prompts in chunks beside the decoding of others. An answer does not depend on who
// else is served: its tokens and logprobs are those of a session of its own, bit for bit.
// Prompts begin with what earlier requests have left in the cache.
//
// A request that fails ends with its error and does not touch the others. If a pass fails as a whole, each of
// its requests is run again by itself, so that only those that cannot run end.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "engine/generate.h"
#include "engine/scheduler.h"

namespace sluice {

struct BatchOptions {
  // Pages of keys, values and gate keys of all requests, and of what is remembered of earlier ones.
  int64_t cache_bytes = 0;
  DType cache_format = SessionOptions().cache_format;
  SchedulerOptions scheduler;  // num_pages is the engine's to set: as many as cache_bytes hold.
};

struct BatchResult {
  Generation generation;  // What was written, all of it or up to the cancellation or error.
  bool is_cancelled = false;
  int64_t reused_tokens = 0;   // Of the prompt, that earlier requests had left in the cache.
  std::exception_ptr error;    // Null: none.
  double wait_seconds = 0;     // Until it was admitted.
  double prefill_seconds = 0;  // From there to the first token.
};

// The callbacks run on the engine's thread, between two steps of all requests: they should be quick, and must
// not destroy the engine.
struct BatchRequest {
  std::vector<int32_t> prompt;
  SamplingOptions sampling;  // max_draft is for steps in which no other request runs.
  SessionOptions session;    // Capacity, chunks, pages and their format are the engine's to choose.
  int priority = 0;          // Higher ones are admitted first.
  OnText on_text;  // Gets the text as it becomes whole. What it throws ends the request with that error.
  PassObserver* observer = nullptr;  // Watches its passes; lives until on_finish. Null: nobody.
  std::function<void(BatchResult result)> on_finish;  // Called once, at the end. Must not throw.
};

class BatchEngine {
 public:
  // `engine` outlives it. Throws InputError for options out of range.
  BatchEngine(const Engine& engine, const BatchOptions& options);
  // Cancels what is not over.
  ~BatchEngine();
  BatchEngine(const BatchEngine&) = delete;
  BatchEngine& operator=(const BatchEngine&) = delete;

  // A new request, from any thread. Throws InputError for a prompt that is empty, longer than the context or
  // not of the vocabulary, for options out of range, and for a request that the cache has no room for even
  // alone; on_finish is then not called. REQUIRES: Shutdown has not been called.
  RequestId Submit(BatchRequest request);
  // Ends a request after the step that is running, from any thread. Does nothing if it is over.
  void Cancel(RequestId id);
  // Takes no more requests, and returns when all are over.
  void Shutdown();

 private:
  struct Request;

  void Loop();
  // Waits until there is something to do; false: nothing is left, and nothing will come.
  bool TakeInbox();
  void Admit();
  void RunStep(const StepPlan& plan);
  // The step of a request that decodes while nobody else runs: with a draft where that pays.
  void RunLoneDecode(const StepPlan& plan, Request& request);
  // Runs the step's parts one by one, after a pass that failed and left their sessions empty.
  void RunAlone(const StepPlan& plan);
  // Draws the token behind a request's timeline.
  void Draw(Request& request, const TensorView& logits);
  // The request ends; `error` null: as it should.
  void End(Request& request, std::exception_ptr error, bool is_cancelled = false);

  const Engine& engine_;
  const std::shared_ptr<PrefixTree> prefixes_;  // And the pages.

  std::mutex mutex_;  // Guards what follows, up to the next empty line.
  std::condition_variable wake_;
  std::vector<std::unique_ptr<Request>> submitted_;
  std::set<RequestId> cancelled_;
  RequestId next_id_ = 1;
  bool is_closed_ = false;
  bool cancels_all_ = false;

  // Of the engine's thread alone.
  Scheduler scheduler_;
  std::map<RequestId, std::unique_ptr<Request>> requests_;
  PassMemory memory_;
  Buffer logits_;  // [max_sessions, vocab]
  std::thread thread_;
};

}  // namespace sluice
