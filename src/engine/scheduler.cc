#include "engine/scheduler.h"

#include <algorithm>
#include <set>

namespace sluice {

namespace {

// Weight of the newest step in the running means: a change of depth or of load is followed within a few
// steps, one step that the machine delayed moves the next chunk by a fourth.
constexpr double kNewest = 0.25;

void UpdateMean(double& mean, double value) {
  mean = mean == 0 ? value : mean + kNewest * (value - mean);
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options) : options_(options) {
  if (options.num_pages < 1)
    throw InputError("the cache must have room for at least 1 page, not {}", options.num_pages);
  if (options.max_sessions < 1)
    throw InputError("the number of sessions at once must be at least 1, not {}", options.max_sessions);
  if (options.step_tokens <= options.max_sessions || options.step_tokens > KvCache::kMaxAppend) {
    throw InputError("the tokens of a step must be from {}, one more than the sessions, to {}, not {}",
                     options.max_sessions + 1, KvCache::kMaxAppend, options.step_tokens);
  }
  if (!(options.decode_delay >= 0))
    throw InputError("the delay of decoding must be at least 0 seconds, not {}", options.decode_delay);
}

int64_t Scheduler::PagesFor(const RequestSize& size) {
  return (size.prompt_tokens + size.max_new_tokens + KvCache::kPageTokens - 1) / KvCache::kPageTokens;
}

void Scheduler::CheckSize(const SchedulerOptions& options, const RequestSize& size) {
  if (size.prompt_tokens < 1) throw InputError("a request needs a prompt of at least 1 token");
  if (size.max_new_tokens < 0)
    throw InputError("a request's number of new tokens must not be negative, not {}", size.max_new_tokens);
  if (PagesFor(size) > options.num_pages) {
    throw InputError(
        "a request of {} tokens and {} new ones may need {} pages of {} tokens, but the cache has room for "
        "{}; shorten it or give the cache more memory",
        size.prompt_tokens, size.max_new_tokens, PagesFor(size), KvCache::kPageTokens, options.num_pages);
  }
}

void Scheduler::Submit(RequestId id, const RequestSize& size) {
  CheckSize(options_, size);
  const auto [place, is_new] = requests_.try_emplace(id, Request{size, State::kWaiting, num_submitted_, 0});
  SLUICE_CHECK(is_new);
  ++num_submitted_;
  waiting_.emplace(KeyOf(place->second), id);
}

std::vector<RequestId> Scheduler::Admit() {
  std::vector<RequestId> admitted;
  while (!waiting_.empty() && num_admitted() < options_.max_sessions) {
    const RequestId id = waiting_.begin()->second;
    Request& request = requests_.at(id);
    const int64_t pages = PagesFor(request.size);
    if (reserved_pages_ + pages > options_.num_pages) break;
    waiting_.erase(waiting_.begin());
    reserved_pages_ += pages;
    request.state = State::kPrefill;
    prefill_.push_back(id);
    admitted.push_back(id);
  }
  return admitted;
}

void Scheduler::SetCached(RequestId id, int64_t tokens) {
  Request& request = requests_.at(id);
  SLUICE_CHECK(request.state == State::kPrefill);
  SLUICE_CHECK_EQ(request.num_tokens, 0);
  SLUICE_CHECK(tokens >= 0 && tokens < request.size.prompt_tokens);
  request.num_tokens = tokens;
}

int64_t Scheduler::PrefillLimit(int64_t num_decodes) const {
  const int64_t limit = options_.step_tokens - num_decodes;
  if (num_decodes == 0) return limit;
  int64_t in_time = kMinPrefillTokens;
  if (prefill_token_seconds_ > 0) {
    const double tokens = options_.decode_delay / prefill_token_seconds_;
    in_time = std::max(in_time, static_cast<int64_t>(std::min(tokens, static_cast<double>(limit))));
  }
  return std::min(limit, in_time);
}

void Scheduler::PlanPrefill(StepPlan& plan) {
  int64_t left = PrefillLimit(plan.num_decodes);
  std::map<RequestId, size_t> part_of;
  std::vector<RequestId> read;  // All of their prompts is in the plan.
  while (left > 0 && !prefill_.empty()) {
    const RequestId id = prefill_.front();
    const Request& request = requests_.at(id);
    const auto [part_idx, is_new] = part_of.try_emplace(id, plan.parts.size());
    if (is_new) plan.parts.push_back({id, request.num_tokens, 0, false, false});
    StepPart& part = plan.parts[part_idx->second];
    const int64_t unread = request.size.prompt_tokens - part.begin - part.count;
    const int64_t count = std::min({left, turn_left_, unread});
    part.count += count;
    part.has_logits = count == unread;
    plan.prefill_tokens += count;
    left -= count;
    turn_left_ -= count;
    if (turn_left_ > 0 && !part.has_logits) break;  // It goes on with its turn in the next step.
    turn_left_ = kTurnTokens;
    prefill_.pop_front();
    if (part.has_logits) {
      read.push_back(id);
    } else {
      prefill_.push_back(id);
    }
  }
  // Until the step is completed they are still to be read.
  prefill_.insert(prefill_.end(), read.begin(), read.end());
}

StepPlan Scheduler::Plan() {
  StepPlan plan;
  for (const RequestId id : decode_) plan.parts.push_back({id, requests_.at(id).num_tokens, 1, true, true});
  plan.num_decodes = std::ssize(decode_);
  PlanPrefill(plan);
  return plan;
}

void Scheduler::Learn(const StepPlan& plan, double seconds) {
  if (seconds == 0) return;
  if (plan.prefill_tokens == 0) return UpdateMean(decode_seconds_, seconds);
  const double added = seconds - (plan.num_decodes > 0 ? decode_seconds_ : 0);
  if (added > 0) UpdateMean(prefill_token_seconds_, added / static_cast<double>(plan.prefill_tokens));
}

void Scheduler::Complete(const StepPlan& plan, double seconds) {
  Learn(plan, seconds);
  for (const StepPart& part : plan.parts) {
    const auto found = requests_.find(part.id);
    if (found == requests_.end()) continue;
    Request& request = found->second;
    SLUICE_CHECK_EQ(request.num_tokens, part.begin);
    request.num_tokens += part.count;
    SLUICE_CHECK_LE(request.num_tokens, request.size.prompt_tokens + request.size.max_new_tokens);
    if (part.is_decode || !part.has_logits) continue;
    request.state = State::kDecode;
    std::erase(prefill_, part.id);
    decode_.push_back(part.id);
  }
}

bool Scheduler::Remove(RequestId id) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return false;
  const Request& request = found->second;
  if (request.state == State::kWaiting) {
    waiting_.erase(KeyOf(request));
  } else {
    reserved_pages_ -= PagesFor(request.size);
  }
  if (!prefill_.empty() && prefill_.front() == id) turn_left_ = kTurnTokens;
  std::erase(prefill_, id);
  std::erase(decode_, id);
  requests_.erase(found);
  return true;
}

void Scheduler::CheckIntegrity() const {
  std::set<RequestId> prefill(prefill_.begin(), prefill_.end()), decode(decode_.begin(), decode_.end());
  SLUICE_CHECK_EQ(prefill.size(), prefill_.size());
  SLUICE_CHECK_EQ(decode.size(), decode_.size());
  SLUICE_CHECK_EQ(prefill.size() + decode.size() + waiting_.size(), requests_.size());
  int64_t pages = 0;
  for (const auto& [id, request] : requests_) {
    const bool is_read = request.num_tokens >= request.size.prompt_tokens;
    switch (request.state) {
      case State::kWaiting:
        SLUICE_CHECK_EQ(waiting_.at(KeyOf(request)), id);
        SLUICE_CHECK_EQ(request.num_tokens, 0);
        continue;
      case State::kPrefill:
        SLUICE_CHECK(prefill.contains(id) && !is_read);
        break;
      case State::kDecode:
        SLUICE_CHECK(decode.contains(id) && is_read);
        break;
    }
    pages += PagesFor(request.size);
    SLUICE_CHECK_LE(request.num_tokens, PagesFor(request.size) * KvCache::kPageTokens);
  }
  SLUICE_CHECK_EQ(pages, reserved_pages_);
  SLUICE_CHECK_LE(reserved_pages_, options_.num_pages);
  SLUICE_CHECK_LE(num_admitted(), options_.max_sessions);
  SLUICE_CHECK(turn_left_ > 0 && turn_left_ <= kTurnTokens);
}

}  // namespace sluice
