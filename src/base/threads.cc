// A pool of threads. A job's tasks are cut into as many ranges as there are threads; each thread takes those
// of its own range in order, and then what is left of the others'. So neighbouring tasks, which mostly read
// neighbouring memory, run on one thread, and the same ones call after call. A call is over when its tasks
// are done, not when every thread has come by: on a busy machine a worker that is not scheduled in
// time costs nothing, where the closing barrier of an OpenMP region waits for it (eight empty tasks on
// two cores that others keep busy: 2 us a call, and 1,000 us through OpenMP). Idle workers spin for a
// short while, then sleep.
//
// A range's counter holds (job number, next task) in one word, and all are closed while a job is being set
// up, so a late worker can never take a task of a job other than the one it read: its compare-and-swap fails.
#include "base/threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
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

constexpr int kMaxThreads = 1024;
constexpr int64_t kMaxTasksPerJob = std::numeric_limits<int32_t>::max();
constexpr uint64_t kClosed = std::numeric_limits<uint32_t>::max();  // No task: above every number of tasks.
// Long enough to bridge the serial stretches inside a layer, short against a scheduler's time slice.
constexpr auto kSpinTime = std::chrono::microseconds(50);

std::atomic<int> num_threads{0};  // 0: not set yet, use what the machine has.
std::vector<int> pinned_cores;    // Empty: threads run where the system puts them.
thread_local bool inside_parallel_for = false;

int NumCores() {
  static const int cores = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxThreads);
  return cores;
}

// Those that this process may use.
std::vector<int> AllowedCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) {
    throw SystemError("the cores that this process may use are not known: {}", std::strerror(errno));
  }
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

void Pin(pthread_t thread, int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  if (const int error = pthread_setaffinity_np(thread, sizeof(set), &set); error != 0) {
    throw SystemError("a thread cannot be kept on core {}: {}", core, std::strerror(error));
  }
}

// First task of a range out of `num_ranges`.
uint32_t RangeBegin(int range, uint32_t num_tasks, int num_ranges) {
  return static_cast<uint32_t>(uint64_t{num_tasks} * static_cast<uint64_t>(range) /
                               static_cast<uint64_t>(num_ranges));
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
  // Thread 0 is the caller.
  void Work(int thread);
  // Takes and runs tasks of the current job until none is left.
  void TakeTasks(int thread);
  void TakeTasksOf(int range, int thread);
  void RunTask(const Task& task, int64_t task_idx);

  std::mutex in_use_;
  std::vector<std::thread> workers_;
  std::atomic<bool> stop_{false};

  // The current job. Written only while all counters are closed, so whoever takes a task has read its job.
  std::atomic<const Task*> task_{nullptr};
  std::atomic<uint32_t> num_tasks_{0};
  std::atomic<int> team_{0};  // Threads, and ranges.
  std::atomic<bool> failed_{false};
  std::mutex error_mutex_;
  std::exception_ptr first_error_;

  struct alignas(64) Range {
    std::atomic<uint64_t> counter{kClosed};  // Job number << 32 | next task.
  };
  std::unique_ptr<Range[]> ranges_ = std::make_unique<Range[]>(kMaxThreads);
  int num_opened_ = 0;  // Ranges that have been in use: they have to be closed.
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

void Pool::TakeTasksOf(int range, int thread) {
  std::atomic<uint64_t>& range_counter = ranges_[static_cast<size_t>(range)].counter;
  uint64_t counter = range_counter.load(std::memory_order_acquire);
  while (true) {
    // Acquire: having read a later job's values, the swap below sees the counter closed, and fails.
    const Task* task = task_.load(std::memory_order_acquire);
    const uint32_t num_tasks = num_tasks_.load(std::memory_order_acquire);
    const int team = team_.load(std::memory_order_acquire);
    const auto task_idx = static_cast<uint32_t>(counter);
    if (thread >= team || range >= team || task_idx >= RangeBegin(range + 1, num_tasks, team)) return;
    if (!range_counter.compare_exchange_weak(counter, counter + 1, std::memory_order_acq_rel,
                                             std::memory_order_acquire))
      continue;
    RunTask(*task, task_idx);
    if (num_done_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_tasks) num_done_.notify_one();
    counter = range_counter.load(std::memory_order_acquire);
  }
}

void Pool::TakeTasks(int thread) {
  const int team = team_.load(std::memory_order_acquire);
  for (int i = 0; i < team; ++i) TakeTasksOf((thread + i) % team, thread);
}

void Pool::Work(int thread) {
  inside_parallel_for = true;
  uint32_t seen = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    const auto new_job = [&] { return job_.load(std::memory_order_acquire) != seen; };
    // With more threads than cores, spinning would keep a working thread off its core.
    if (NumThreads() > NumCores() || !SpinUntil(new_job)) job_.wait(seen, std::memory_order_acquire);
    seen = job_.load(std::memory_order_acquire);
    TakeTasks(thread);
  }
}

void Pool::Run(int64_t num_tasks, const Task& task, int team) {
  try {
    while (static_cast<int>(workers_.size()) < team - 1) {
      const int thread = static_cast<int>(workers_.size()) + 1;
      workers_.emplace_back([this, thread] { Work(thread); });
      const auto place = static_cast<size_t>(thread);
      if (place < pinned_cores.size()) Pin(workers_.back().native_handle(), pinned_cores[place]);
    }
  } catch (const std::system_error& error) {
    throw SystemError("cannot start thread {}: {}; use fewer --threads", workers_.size() + 1, error.what());
  }
  const auto num_tasks32 = static_cast<uint32_t>(num_tasks);
  const uint64_t job = uint64_t{job_.load(std::memory_order_relaxed) + 1} << 32;
  num_opened_ = std::max(num_opened_, team);
  for (int i = 0; i < num_opened_; ++i) {
    ranges_[static_cast<size_t>(i)].counter.store(job | kClosed, std::memory_order_relaxed);
  }
  task_.store(&task, std::memory_order_release);
  num_tasks_.store(num_tasks32, std::memory_order_release);
  team_.store(team, std::memory_order_release);
  failed_.store(false, std::memory_order_relaxed);
  num_done_.store(0, std::memory_order_relaxed);
  for (int i = 0; i < team; ++i) {
    ranges_[static_cast<size_t>(i)].counter.store(job | RangeBegin(i, num_tasks32, team),
                                                  std::memory_order_release);
  }
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();

  inside_parallel_for = true;
  TakeTasks(0);
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
  if (n < 1 || n > kMaxThreads) {
    throw InputError("the number of threads is {}; it must be from 1 to {}", n, kMaxThreads);
  }
  num_threads.store(n, std::memory_order_relaxed);
}

int NumThreads() {
  const int n = num_threads.load(std::memory_order_relaxed);
  return n > 0 ? n : NumCores();
}

void PinThreads() {
  std::vector<int> cores = AllowedCores();
  if (NumThreads() > std::ssize(cores)) {
    throw InputError("{} threads cannot have a core each: there are {}; use fewer --threads, or no --pin",
                     NumThreads(), cores.size());
  }
  Pin(pthread_self(), cores[0]);
  pinned_cores = std::move(cores);
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
