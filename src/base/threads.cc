// A pool of threads that take numbered tasks from one shared counter. A call is over when its tasks
// are done, not when every thread has come by: on a busy machine a worker that is not scheduled in
// time costs nothing, where the closing barrier of an OpenMP region waits for it (eight empty tasks on
// two cores that others keep busy: 2 us a call, and 1,000 us through OpenMP). Idle workers spin for a
// short while, then sleep.
//
// The counter holds (job number, next task) in one word and is closed while a job is being set up, so
// a late worker can never take a task of a job other than the one it read: its compare-and-swap fails.
#include "base/threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <limits>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/error.h"

namespace sluice {
namespace {

using Task = std::function<void(int64_t)>;

constexpr int64_t kMaxTasksPerJob = std::numeric_limits<int32_t>::max();
constexpr uint64_t kClosed = std::numeric_limits<uint32_t>::max();  // No task: above every number of tasks.
// Long enough to bridge the serial stretches inside a layer, short against a scheduler's time slice.
constexpr auto kSpinTime = std::chrono::microseconds(50);

std::atomic<int> num_threads{0};  // 0: not set yet, use what the machine has.
thread_local bool inside_parallel_for = false;

int NumCores() {
  static const int cores = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 1024);
  return cores;
}

void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until `done()` for at most kSpinTime; whether it came true.
template <class Condition>
bool SpinUntil(Condition done) {
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      Relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

class Pool {
 public:
  ~Pool();
  // REQUIRES: one call at a time; team >= 2; 0 < num_tasks <= kMaxTasksPerJob.
  void Run(int64_t num_tasks, const Task& task, int team);
  std::mutex& in_use() { return in_use_; }

 private:
  void Work(int worker_idx);
  // Takes and runs tasks of the current job until none is left. `worker_idx` < 0: the caller.
  void TakeTasks(int worker_idx);
  void RunTask(const Task& task, int64_t task_idx);

  std::mutex in_use_;
  std::vector<std::thread> workers_;
  std::atomic<bool> stop_{false};

  // The current job. Written only while the counter is closed, so whoever takes a task has read its job.
  std::atomic<const Task*> task_{nullptr};
  std::atomic<uint32_t> num_tasks_{0};
  std::atomic<int> num_workers_{0};
  std::atomic<bool> failed_{false};
  std::mutex error_mutex_;
  std::exception_ptr first_error_;

  alignas(64) std::atomic<uint64_t> counter_{0};  // Job number << 32 | next task.
  alignas(64) std::atomic<uint32_t> num_done_{0};
  alignas(64) std::atomic<uint32_t> job_{0};  // Workers sleep on it.
};

Pool::~Pool() {
  stop_.store(true, std::memory_order_relaxed);
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Pool::RunTask(const Task& task, int64_t task_idx) {
  if (failed_.load(std::memory_order_relaxed)) return;
  try {
    task(task_idx);
  } catch (...) {
    const std::lock_guard lock(error_mutex_);
    if (!first_error_) first_error_ = std::current_exception();
    failed_.store(true, std::memory_order_relaxed);
  }
}

void Pool::TakeTasks(int worker_idx) {
  uint64_t counter = counter_.load(std::memory_order_acquire);
  while (true) {
    // Acquire: having read a later job's values, the swap below sees the counter closed, and fails.
    const Task* task = task_.load(std::memory_order_acquire);
    const uint32_t num_tasks = num_tasks_.load(std::memory_order_acquire);
    const int num_workers = num_workers_.load(std::memory_order_acquire);
    const auto task_idx = static_cast<uint32_t>(counter);
    if (worker_idx >= num_workers || task_idx >= num_tasks) return;
    if (!counter_.compare_exchange_weak(counter, counter + 1, std::memory_order_acq_rel,
                                        std::memory_order_acquire))
      continue;
    RunTask(*task, task_idx);
    if (num_done_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_tasks) num_done_.notify_one();
    counter = counter_.load(std::memory_order_acquire);
  }
}

void Pool::Work(int worker_idx) {
  inside_parallel_for = true;
  uint32_t seen = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    const auto new_job = [&] { return job_.load(std::memory_order_acquire) != seen; };
    // With more threads than cores, spinning would keep a working thread off its core.
    if (NumThreads() > NumCores() || !SpinUntil(new_job)) job_.wait(seen, std::memory_order_acquire);
    seen = job_.load(std::memory_order_acquire);
    TakeTasks(worker_idx);
  }
}

void Pool::Run(int64_t num_tasks, const Task& task, int team) {
  try {
    while (static_cast<int>(workers_.size()) < team - 1) {
      const int worker_idx = static_cast<int>(workers_.size());
      workers_.emplace_back([this, worker_idx] { Work(worker_idx); });
    }
  } catch (const std::system_error& error) {
    throw SystemError("cannot start thread {}: {}; use fewer --threads", workers_.size() + 1, error.what());
  }
  const auto num_tasks32 = static_cast<uint32_t>(num_tasks);
  const uint64_t job = ((counter_.load(std::memory_order_relaxed) >> 32) + 1) << 32;
  counter_.store(job | kClosed, std::memory_order_relaxed);
  task_.store(&task, std::memory_order_release);
  num_tasks_.store(num_tasks32, std::memory_order_release);
  num_workers_.store(team - 1, std::memory_order_release);
  failed_.store(false, std::memory_order_relaxed);
  num_done_.store(0, std::memory_order_relaxed);
  counter_.store(job, std::memory_order_release);
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();

  inside_parallel_for = true;
  TakeTasks(-1);
  inside_parallel_for = false;
  const auto all_done = [&] { return num_done_.load(std::memory_order_acquire) == num_tasks32; };
  if (NumThreads() > NumCores() || !SpinUntil(all_done)) {
    for (uint32_t done; (done = num_done_.load(std::memory_order_acquire)) != num_tasks32;)
      num_done_.wait(done, std::memory_order_acquire);
  }
  if (first_error_) std::rethrow_exception(std::exchange(first_error_, nullptr));
}

Pool& ThePool() {
  static Pool pool;
  return pool;
}

}  // namespace

void SetNumThreads(int n) {
  if (n < 1 || n > 1024) throw InputError("the number of threads is {}; it must be from 1 to 1024", n);
  num_threads.store(n, std::memory_order_relaxed);
}

int NumThreads() {
  const int n = num_threads.load(std::memory_order_relaxed);
  return n > 0 ? n : NumCores();
}

void ParallelFor(int64_t num_tasks, const std::function<void(int64_t task_idx)>& task) {
  const int team = NumThreads();
  if (team > 1 && num_tasks > 1 && num_tasks <= kMaxTasksPerJob && !inside_parallel_for) {
    // A second caller at the same time runs its tasks itself: the results do not depend on it.
    if (const std::unique_lock lock(ThePool().in_use(), std::try_to_lock); lock.owns_lock()) {
      ThePool().Run(num_tasks, task, team);
      return;
    }
  }
  for (int64_t i = 0; i < num_tasks; ++i) task(i);
}

void ParallelForRange(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body) {
  SLUICE_CHECK(grain > 0);
  ParallelFor((n + grain - 1) / grain, [&](int64_t i) { body(i * grain, std::min(n, (i + 1) * grain)); });
}

}  // namespace sluice
