// Totals per span name, found by the literal's address first and merged by text when read.
#include "base/trace.h"

#include <algorithm>
#include <atomic>
#include <map>
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
  Sums().clear();
}

std::vector<TraceTotal> TraceTotals() {
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
  Sum& sum = Sums()[name_];
  ++sum.calls;
  sum.seconds += std::chrono::duration<double>(Clock::now() - start_).count();
}

}  // namespace sluice
