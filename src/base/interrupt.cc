// The handler only touches a lock-free atomic and _exit, which are all that a signal handler may.
#include "base/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

namespace sluice {
namespace {

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void OnSignal(int signal_number) {
  // 128 + signal is what a shell reports for a process ended by that signal.
  if (interrupted.exchange(true)) ::_exit(128 + signal_number);
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
  return interrupted.load(std::memory_order_relaxed);
}

}  // namespace sluice
