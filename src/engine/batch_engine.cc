#include "engine/batch_engine.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "engine/speculation.h"

namespace sluice {

namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// What `work` throws, or null. The exception is then the caller's alone, to be handed to another thread.
template <class Work>
std::exception_ptr ErrorOf(const Work& work) {
  try {
    work();
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

std::shared_ptr<PrefixTree> MakePages(const Engine& engine, const BatchOptions& options) {
  SessionOptions smallest;
  smallest.capacity = kPageRows;
  smallest.cache_format = options.cache_format;
  return MakePrefixTree(engine, smallest, options.cache_bytes);
}

SchedulerOptions WithPages(SchedulerOptions options, const PrefixTree& prefixes) {
  options.num_pages = prefixes.pool()->num_pages();
  return options;
}

// What a request's session needs room for. Throws InputError if its prompt alone is too long.
int64_t CapacityFor(const Engine& engine, const BatchRequest& request) {
  const auto prompt = std::ssize(request.prompt);
  const int64_t context = engine.config().context_length;
  if (prompt >= context) {
    throw InputError("the prompt has {} tokens, but the model's context is {} tokens; shorten the prompt",
                     prompt, context);
  }
  return std::min(context, prompt + request.sampling.max_tokens);
}

}  // namespace

struct BatchEngine::Request {
  Request(const Engine& engine, BatchRequest from)
      : input(std::move(from)),
        continuation(engine, input.sampling, input.prompt, std::move(input.on_text)),
        text(std::move(input.prompt)),
        num_prompt_tokens(std::ssize(text)),
        speculation(input.sampling.max_draft) {}

  RequestSize Size() const {
    return {num_prompt_tokens, input.session.capacity - num_prompt_tokens, input.priority};
  }
  // Those that run in a part of a step.
  std::span<const int32_t> TokensOf(const StepPart& part) const {
    return std::span(text).subspan(static_cast<size_t>(part.begin), static_cast<size_t>(part.count));
  }
  // What has been drafted behind its newest token, and checked.
  bool IsForeseen(const StepPart& part) const {
    return part.is_decode && session->IsForeseen(text[static_cast<size_t>(part.begin)]);
  }

  RequestId id = 0;
  BatchRequest input;  // Its prompt and on_text are the next members' now.
  Continuation continuation;
  std::vector<int32_t> text;  // The prompt, and what was written; the newest token has not run yet.
  int64_t num_prompt_tokens;
  std::unique_ptr<Session> session;  // Once it is admitted.
  Speculation speculation;
  int64_t reused_tokens = 0;
  int64_t passes = 0, drafted = 0, accepted = 0;  // As of Generation.
  Clock::time_point submitted_at = Clock::now();
  std::optional<Clock::time_point> admitted_at;
  std::optional<Clock::time_point> first_token_at;
};

BatchEngine::BatchEngine(const Engine& engine, const BatchOptions& options)
    : engine_(engine),
      prefixes_(MakePages(engine, options)),
      scheduler_(WithPages(options.scheduler, *prefixes_)),
      logits_(DType::kF32, {options.scheduler.max_sessions, engine.config().vocab_size}),
      thread_([this] { Loop(); }) {}

BatchEngine::~BatchEngine() {
  {
    const std::lock_guard lock(mutex_);
    cancels_all_ = true;
  }
  Shutdown();
}

RequestId BatchEngine::Submit(BatchRequest input) {
  if (input.prompt.empty()) throw InputError("there is nothing to read: the prompt has no tokens");
  CheckTokens(engine_.config(), input.prompt);
  input.session.capacity = CapacityFor(engine_, input);
  input.session.pool_tokens = 0;
  input.session.cache_format = prefixes_->pool()->shape().format;
  input.session.prefixes = prefixes_;
  SessionCacheShape(engine_, input.session);  // Throws for options out of range.
  auto request = std::make_unique<Request>(engine_, std::move(input));
  Scheduler::CheckSize(scheduler_.options(), request->Size());
  const std::lock_guard lock(mutex_);
  SLUICE_CHECK(!is_closed_);
  const RequestId id = next_id_++;
  request->id = id;
  submitted_.push_back(std::move(request));
  wake_.notify_one();
  return id;
}

void BatchEngine::Cancel(RequestId id) {
  const std::lock_guard lock(mutex_);
  cancelled_.insert(id);
  wake_.notify_one();
}

void BatchEngine::Shutdown() {
  {
    const std::lock_guard lock(mutex_);
    is_closed_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void BatchEngine::Loop() {
  while (TakeInbox()) {
    Admit();
    const StepPlan plan = scheduler_.Plan();
    if (!plan.parts.empty()) RunStep(plan);
  }
}

bool BatchEngine::TakeInbox() {
  std::vector<std::unique_ptr<Request>> submitted;
  std::set<RequestId> cancelled;
  bool cancels_all = false, is_closed = false;
  {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return !requests_.empty() || !submitted_.empty() || is_closed_; });
    submitted.swap(submitted_);
    cancelled.swap(cancelled_);
    cancels_all = cancels_all_;
    is_closed = is_closed_;
  }
  for (std::unique_ptr<Request>& request : submitted) {
    scheduler_.Submit(request->id, request->Size());
    const RequestId id = request->id;
    requests_.emplace(id, std::move(request));
  }
  if (cancels_all) {
    for (const auto& [id, request] : requests_) cancelled.insert(id);
  }
  for (const RequestId id : cancelled) {
    const auto found = requests_.find(id);
    if (found != requests_.end()) End(*found->second, nullptr, /*is_cancelled=*/true);
  }
  return !is_closed || !requests_.empty();
}

void BatchEngine::Admit() {
  for (const RequestId id : scheduler_.Admit()) {
    Request& request = *requests_.at(id);
    request.admitted_at = Clock::now();
    if (request.continuation.is_over()) {  // No tokens were asked for.
      End(request, nullptr);
      continue;
    }
    std::exception_ptr error = ErrorOf([&] {
      request.session = std::make_unique<Session>(engine_, request.input.session);
      request.session->Observe(request.input.observer);
      request.reused_tokens = request.session->Reuse(request.text);
      scheduler_.SetCached(id, request.reused_tokens);
    });
    if (error != nullptr) End(request, std::move(error));
  }
}

void BatchEngine::RunStep(const StepPlan& plan) {
  std::vector<SessionPart> parts;
  std::vector<Request*> drawing, foreseen;
  for (const StepPart& part : plan.parts) {
    Request& request = *requests_.at(part.id);
    if (request.IsForeseen(part)) {
      foreseen.push_back(&request);
      continue;
    }
    if (part.is_decode && plan.parts.size() == 1) return RunLoneDecode(plan, request);
    parts.push_back({request.session.get(), request.TokensOf(part), part.has_logits ? 1 : 0});
    request.passes += part.is_decode ? 1 : 0;
    if (part.has_logits) drawing.push_back(&request);
  }
  const TensorView logits = drawing.empty() ? TensorView() : logits_.view().Rows(0, std::ssize(drawing));
  const auto start = Clock::now();
  if (!parts.empty() && ErrorOf([&] { RunTogether(memory_, parts, logits); }) != nullptr)
    return RunAlone(plan);
  // A step in which not everything ran says little of what others take.
  scheduler_.Complete(plan, foreseen.empty() ? SecondsSince(start) : 0);
  for (size_t i = 0; i < drawing.size(); ++i) {
    if (!drawing[i]->first_token_at) drawing[i]->session->Remember();  // Others may begin with this prompt.
    Draw(*drawing[i], logits.At(static_cast<int64_t>(i)));
  }
  for (Request* request : foreseen) {
    ++request->accepted;
    request->session->Append(request->text.back());
    Draw(*request, request->session->logits());
  }
}

void BatchEngine::RunLoneDecode(const StepPlan& plan, Request& request) {
  Session& session = *request.session;
  const int64_t most = session.capacity() - session.num_tokens() - 1;
  const std::vector<int32_t> draft = request.speculation.Draft(request.text, most);
  const auto start = Clock::now();
  if (ErrorOf([&] { session.Append(request.text.back(), draft); }) != nullptr) return RunAlone(plan);
  const double seconds = SecondsSince(start);
  request.speculation.PassDone(std::ssize(draft), seconds);
  ++request.passes;
  request.drafted += std::ssize(draft);
  scheduler_.Complete(plan, draft.empty() ? seconds : 0);
  Draw(request, session.logits());
}

void BatchEngine::RunAlone(const StepPlan& plan) {
  scheduler_.Complete(plan, 0);
  for (const StepPart& part : plan.parts) {
    Request& request = *requests_.at(part.id);
    const auto tokens =
        std::span<const int32_t>(request.text).first(static_cast<size_t>(part.begin + part.count));
    std::exception_ptr error = ErrorOf([&] { request.session->Sync(tokens); });
    if (error != nullptr) {
      End(request, std::move(error));
    } else if (part.has_logits) {
      Draw(request, request.session->logits());
    }
  }
}

void BatchEngine::Draw(Request& request, const TensorView& logits) {
  const bool has_room = request.session->num_tokens() < request.session->capacity();
  std::exception_ptr error = ErrorOf([&] {
    if (const auto token = request.continuation.Next(logits, has_room)) request.text.push_back(*token);
  });
  if (error != nullptr) return End(request, std::move(error));
  if (!request.first_token_at) request.first_token_at = Clock::now();
  if (request.continuation.is_over()) End(request, nullptr);
}

void BatchEngine::End(Request& request, std::exception_ptr error, bool is_cancelled) {
  BatchResult result;
  if (error == nullptr && !is_cancelled) {
    // on_text may throw at the rest of the text.
    error = ErrorOf([&] { result.generation = request.continuation.Finish(); });
  }
  if (error != nullptr || is_cancelled) result.generation = request.continuation.so_far();
  result.generation.passes = request.passes;
  result.generation.drafted = request.drafted;
  result.generation.accepted = request.accepted;
  result.reused_tokens = request.reused_tokens;
  result.is_cancelled = is_cancelled;
  result.error = std::move(error);
  const auto seconds = [](Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
  };
  const auto now = Clock::now();
  result.wait_seconds = seconds(request.submitted_at, request.admitted_at.value_or(now));
  if (request.admitted_at)
    result.prefill_seconds = seconds(*request.admitted_at, request.first_token_at.value_or(now));
  if (request.first_token_at) result.generation.seconds = seconds(*request.first_token_at, now);
  scheduler_.Remove(request.id);
  const auto ended = requests_.extract(request.id);
  // Its memory is free, and what it read is known, before anybody hears of the end.
  if (request.session != nullptr) request.session->Remember();
  request.session.reset();
  if (request.input.on_finish) request.input.on_finish(std::move(result));
}

}  // namespace sluice
