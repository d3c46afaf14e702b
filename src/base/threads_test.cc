// ParallelFor: every task exactly once, for any number of threads; exceptions reach the caller;
// nested calls run.
#include "base/threads.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "base/error.h"

namespace sluice {
namespace {

class ThreadsTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    before_ = NumThreads();
    SetNumThreads(GetParam());
  }
  void TearDown() override { SetNumThreads(before_); }

 private:
  int before_ = 1;
};

TEST_P(ThreadsTest, EveryTaskOnce) {
  for (const int64_t num_tasks : {0, 1, 2, 3, 7, 1000}) {
    std::vector<int> calls(static_cast<size_t>(num_tasks));
    ParallelFor(num_tasks, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
    EXPECT_TRUE(std::all_of(calls.begin(), calls.end(), [](int n) { return n == 1; })) << num_tasks;
  }
}

TEST_P(ThreadsTest, RangesCoverWithoutOverlap) {
  for (const int64_t n : {0, 1, 9, 10, 11, 100}) {
    std::vector<int> calls(static_cast<size_t>(n));
    ParallelForRange(n, 10, [&](int64_t begin, int64_t end) {
      EXPECT_LE(end - begin, 10);
      EXPECT_LT(begin, end);
      for (int64_t i = begin; i < end; ++i) ++calls[static_cast<size_t>(i)];
    });
    EXPECT_TRUE(std::all_of(calls.begin(), calls.end(), [](int c) { return c == 1; })) << n;
  }
}

TEST_P(ThreadsTest, ExceptionReachesTheCallerAndTheNextCallWorks) {
  for (int repeat = 0; repeat < 20; ++repeat) {
    EXPECT_THROW(ParallelFor(100,
                             [](int64_t i) {
                               if (i % 10 == 3) throw InputError("task {}", i);
                             }),
                 InputError);
    std::atomic<int> calls = 0;
    ParallelFor(100, [&](int64_t) { ++calls; });
    EXPECT_EQ(calls, 100);
  }
}

TEST_P(ThreadsTest, NestedCallsRunOnTheSameThread) {
  std::atomic<int> calls = 0;
  ParallelFor(5, [&](int64_t) {
    const auto outer = std::this_thread::get_id();
    ParallelFor(7, [&](int64_t) {
      ++calls;
      if (GetParam() > 1) {
        EXPECT_EQ(std::this_thread::get_id(), outer);
      }
    });
  });
  EXPECT_EQ(calls, 35);
}

TEST_P(ThreadsTest, ExceptionInANestedCallReachesTheOutermost) {
  EXPECT_THROW(ParallelFor(4, [](int64_t) { ParallelFor(4, [](int64_t) { throw SystemError("inner"); }); }),
               SystemError);
  std::atomic<int> calls = 0;
  ParallelFor(4, [&](int64_t) { ++calls; });
  EXPECT_EQ(calls, 4);
}

TEST_P(ThreadsTest, ManySmallCalls) {
  std::vector<int64_t> sums(4);
  for (int repeat = 0; repeat < 2000; ++repeat)
    ParallelFor(4, [&](int64_t i) { sums[static_cast<size_t>(i)] += i; });
  EXPECT_EQ(sums, (std::vector<int64_t>{0, 2000, 4000, 6000}));
}

// A call behind one of more threads: ranges that are no longer in use are left alone.
TEST_P(ThreadsTest, AfterMoreThreads) {
  SetNumThreads(9);
  for (int repeat = 0; repeat < 200; ++repeat) {
    SetNumThreads(repeat % 2 == 0 ? 9 : GetParam());
    std::vector<std::atomic<int>> calls(31);
    ParallelFor(31, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
    for (const auto& count : calls) ASSERT_EQ(count, 1);
  }
}

// Jobs of differing sizes in quick succession, so that workers arrive late: no task twice, none of
// another job.
TEST_P(ThreadsTest, LateWorkersNeverTakeATaskOfAnotherJob) {
  std::vector<std::atomic<int>> calls(40);
  for (int job = 0; job < 5000; ++job) {
    const int64_t num_tasks = 2 + job * 7 % 39;
    for (auto& count : calls) count.store(0, std::memory_order_relaxed);
    ParallelFor(num_tasks, [&, job](int64_t i) {
      calls[static_cast<size_t>(i)].fetch_add(job + 1, std::memory_order_relaxed);
    });
    for (int64_t i = 0; i < 40; ++i)
      ASSERT_EQ(calls[static_cast<size_t>(i)].load(std::memory_order_relaxed), i < num_tasks ? job + 1 : 0);
  }
}

TEST_P(ThreadsTest, CallsFromSeveralThreadsAtOnce) {
  std::atomic<int> calls = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller)
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 50; ++repeat) ParallelFor(8, [&](int64_t) { ++calls; });
    });
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(calls, 3 * 50 * 8);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadsTest, ::testing::Values(1, 2, 5));

TEST(NumThreadsTest, RejectsWhatCannotBe) {
  const int before = NumThreads();
  EXPECT_GE(before, 1);
  EXPECT_THROW(SetNumThreads(0), InputError);
  EXPECT_THROW(SetNumThreads(1025), InputError);
  EXPECT_EQ(NumThreads(), before);
}

// In a process of its own, as pinned threads stay so.
TEST(PinThreadsDeathTest, EveryThreadHasACoreOfItsOwn) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run = [] {
    const int cores = NumThreads();
    SetNumThreads(cores);
    PinThreads();
    std::mutex mutex;
    std::set<int> seen;
    std::atomic<int> arrived = 0;
    ParallelFor(cores, [&](int64_t) {
      ++arrived;
      while (arrived < cores) std::this_thread::yield();
      const std::lock_guard lock(mutex);
      seen.insert(sched_getcpu());
    });
    std::exit(static_cast<int>(seen.size()) == cores ? 0 : 1);
  };
  EXPECT_EXIT(run(), ::testing::ExitedWithCode(0), "");
}

TEST(PinThreadsTest, MoreThreadsThanCoresAreRefused) {
  const int before = NumThreads();
  SetNumThreads(1024);
  EXPECT_THROW(PinThreads(), InputError);
  SetNumThreads(before);
}

TEST(NumThreadsTest, UsesAsManyThreadsAsWereSet) {
  const int before = NumThreads();
  SetNumThreads(3);
  std::mutex mutex;
  std::set<std::thread::id> seen;
  // Each task waits for the other two: only three threads can finish it.
  std::atomic<int> arrived = 0;
  ParallelFor(3, [&](int64_t) {
    ++arrived;
    while (arrived < 3) std::this_thread::yield();
    const std::lock_guard lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(seen.size(), 3u);
  SetNumThreads(before);
}

}  // namespace
}  // namespace sluice
