// OpenMP's thread team with our own task counter: one atomic add hands out a task, and a team is
// kept between calls by the runtime, so that a call costs a few microseconds. Exceptions do not
// leave an OpenMP region: the first is kept and rethrown by the caller's thread.
#include "base/threads.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

#include "base/check.h"
#include "base/error.h"

namespace sluice {
namespace {

std::atomic<int> num_threads{0};  // 0: not set yet, use what the machine has.
thread_local bool inside_parallel_for = false;

// The thread sanitizer cannot see OpenMP's own barriers. `num_jobs_begun` (added to by the caller,
// read by each worker first) and Job::num_finished (the other way round) say the same in its terms.
std::atomic<uint64_t> num_jobs_begun{0};

// One call of ParallelFor.
struct Job {
  const std::function<void(int64_t)>& task;
  const int64_t num_tasks;
  std::atomic<int64_t> next{0};
  std::atomic<int> num_finished{0};
  std::mutex mutex;
  std::exception_ptr first_error;
};

class InsideScope {
 public:
  InsideScope() { inside_parallel_for = true; }
  ~InsideScope() { inside_parallel_for = false; }
};

[[gnu::noinline]] void Work(Job& job) {
  (void)num_jobs_begun.load(std::memory_order_acquire);
  {
    const InsideScope inside;
    try {
      for (int64_t i; (i = job.next.fetch_add(1, std::memory_order_acq_rel)) < job.num_tasks;) job.task(i);
    } catch (...) {
      job.next.store(job.num_tasks, std::memory_order_release);  // No thread starts another task.
      const std::lock_guard lock(job.mutex);
      if (!job.first_error) job.first_error = std::current_exception();
    }
  }
  job.num_finished.fetch_add(1, std::memory_order_release);
}

// Not instrumented: the region's hidden argument block is handed over by OpenMP's own barrier.
[[gnu::noinline, gnu::no_sanitize_thread]] void RunTeam(Job* job, int team) {
#pragma omp parallel num_threads(team) default(none) firstprivate(job)
  Work(*job);
}

}  // namespace

void SetNumThreads(int n) {
  if (n < 1 || n > 1024) throw InputError("the number of threads is {}; it must be from 1 to 1024", n);
  num_threads.store(n, std::memory_order_relaxed);
}

int NumThreads() {
  const int n = num_threads.load(std::memory_order_relaxed);
  return n > 0 ? n : std::clamp(omp_get_num_procs(), 1, 1024);
}

void ParallelFor(int64_t num_tasks, const std::function<void(int64_t task_idx)>& task) {
  const int team = static_cast<int>(std::min<int64_t>(NumThreads(), num_tasks));
  if (team <= 1 || inside_parallel_for) {
    for (int64_t i = 0; i < num_tasks; ++i) task(i);
    return;
  }
  Job job{.task = task, .num_tasks = num_tasks, .mutex = {}, .first_error = nullptr};
  num_jobs_begun.fetch_add(1, std::memory_order_release);
  RunTeam(&job, team);
  (void)job.num_finished.load(std::memory_order_acquire);
  if (job.first_error) std::rethrow_exception(job.first_error);
}

void ParallelForRange(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body) {
  SLUICE_CHECK(grain > 0);
  ParallelFor((n + grain - 1) / grain, [&](int64_t i) { body(i * grain, std::min(n, (i + 1) * grain)); });
}

}  // namespace sluice
