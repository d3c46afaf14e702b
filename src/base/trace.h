// Trace spans: where the time of a step goes. Off by default; the cost when off is one branch.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace sluice {

struct TraceTotal {
  std::string name;
  int64_t calls = 0;
  double seconds = 0;
};

void EnableTracing(bool on);
bool TracingEnabled();
// Totals by span name since the last reset, largest first. Nested spans both count.
std::vector<TraceTotal> TraceTotals();
void ResetTrace();

// Times its own scope under `name`, which must outlive the program (a literal). Spans of several threads add
// up.
class TraceSpan {
 public:
  explicit TraceSpan(const char* name);
  ~TraceSpan();
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  const char* name_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace sluice
