// Threads: a parallel loop over numbered tasks. The split into tasks is the caller's and must not
// depend on the number of threads: that is what makes results the same bits for 1 and N threads.
#pragma once

#include <cstdint>
#include <functional>

namespace sluice {

// Threads that ParallelFor uses from now on. REQUIRES: 1 <= n <= 1024, else InputError.
void SetNumThreads(int n);
int NumThreads();
// Keeps the calling thread and those that ParallelFor starts for it on a core each, for good, of those that
// the process may use: neighbouring tasks run on the same core call after call. For a machine that does
// little else, as a pinned thread cannot move away from other work. REQUIRES: SetNumThreads, but no
// ParallelFor, was called before. Throws InputError if there are more threads than cores, SystemError if the
// system refuses.
void PinThreads();

// Calls task(i) once for every i in [0, num_tasks), on NumThreads() threads, in no particular
// order, though a thread's tasks are mostly neighbours; returns when all are done. The first exception thrown
// by a task is rethrown here. Nested calls run serially.
void ParallelFor(int64_t num_tasks, const std::function<void(int64_t task_idx)>& task);

// Splits [0, n) into ranges of at most `grain` and calls body(begin, end) for each, in parallel.
void ParallelForRange(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace sluice
