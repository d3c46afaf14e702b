// Totals per span name, found by the literal's address first and merged by text when read.
#include "base/trace.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <string_view>
#include <unordered_map>

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

struct Sum {
  int64_t calls = 0;
  double seconds = 0;
};

std::atomic<bool> tracing{false};

// Guards Sums(), which only threads that trace touch.
std::mutex& SumsMutex() {
  static std::mutex mutex;
  return mutex;
}

std::unordered_map<const char*, Sum>& Sums() {
  static std::unordered_map<const char*, Sum> sums;
  return sums;
}

}  // namespace

void EnableTracing(bool on) {
  tracing.store(on, std::memory_order_relaxed);
}
bool TracingEnabled() {
  return tracing.load(std::memory_order_relaxed);
}
void ResetTrace() {
  const std::lock_guard lock(SumsMutex());
  Sums().clear();
}

std::vector<TraceTotal> TraceTotals() {
  const std::lock_guard lock(SumsMutex());
  std::map<std::string_view, Sum> by_name;  // The same text may be two literals.
  for (const auto& [name, sum] : Sums()) {
    by_name[name].calls += sum.calls;
    by_name[name].seconds += sum.seconds;
  }
  std::vector<TraceTotal> totals;
  for (const auto& [name, sum] : by_name) totals.push_back({std::string(name), sum.calls, sum.seconds});
  std::stable_sort(totals.begin(), totals.end(),
                   [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  return totals;
}

TraceSpan::TraceSpan(const char* name) : name_(TracingEnabled() ? name : nullptr) {
  if (name_ != nullptr) start_ = Clock::now();
}

TraceSpan::~TraceSpan() {
  if (name_ == nullptr) return;
  const std::chrono::duration<double> seconds = Clock::now() - start_;
  const std::lock_guard lock(SumsMutex());
  Sum& sum = Sums()[name_];
  ++sum.calls;
  sum.seconds += seconds.count();
}

}  // namespace sluice
