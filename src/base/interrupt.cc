// The handler only uses a lock-free atomic, clock_gettime and _exit, which a signal handler may.
#include "base/interrupt.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace sluice {
namespace {

constexpr int64_t kSameRequestNs = 500'000'000;

// When the first signal came, on the monotonic clock; 0 before that.
std::atomic<int64_t> first_signal_ns{0};
static_assert(std::atomic<int64_t>::is_always_lock_free);

void OnSignal(int signal_number) {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t now_ns = int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  int64_t first_ns = 0;
  if (first_signal_ns.compare_exchange_strong(first_ns, now_ns)) return;
  // 128 + signal is what a shell reports for a process ended by that signal.
  if (now_ns - first_ns > kSameRequestNs) ::_exit(128 + signal_number);
}

}  // namespace

void InstallInterruptHandler() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool InterruptRequested() {
  return first_signal_ns.load(std::memory_order_relaxed) != 0;
}

}  // namespace sluice
