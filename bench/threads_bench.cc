// What a parallel call costs, and what a second thread gains. Empty tasks, one for each thread: back to back,
// and after a pause as long as the serial work inside a layer. Then reading memory, one or two threads.
// Arguments: threads, and microseconds of pause.
#include <benchmark/benchmark.h>

#include <chrono>

#include "backend/cpu/peaks.h"
#include "base/threads.h"
#include "tensor/tensor.h"

namespace sluice {
namespace {

void BM_EmptyTasks(benchmark::State& state) {
  SetNumThreads(static_cast<int>(state.range(0)));
  const auto pause = std::chrono::microseconds(state.range(1));
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    while (std::chrono::steady_clock::now() - begin < pause) continue;
    const auto start = std::chrono::steady_clock::now();
    ParallelFor(state.range(0), [](int64_t i) { benchmark::DoNotOptimize(i); });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    state.SetIterationTime(seconds.count());
  }
}

// 64 MiB in tasks of 64 KiB, as a row's product with a matrix reads them.
void BM_ReadInTasks(benchmark::State& state) {
  constexpr int64_t kBytes = int64_t{64} << 20;
  constexpr int64_t kWordsPerTask = (64 << 10) / 8;
  SetNumThreads(static_cast<int>(state.range(0)));
  const Buffer memory(DType::kI64, {kBytes / 8});
  memory.view().Zero();  // Pages that nobody has written are all the same one, which stays in the cache.
  const auto* words = static_cast<const uint64_t*>(memory.view().raw());
  for (auto _ : state) {
    ParallelFor(kBytes / 8 / kWordsPerTask, [&](int64_t i) {
      benchmark::DoNotOptimize(ReadWords(words + i * kWordsPerTask, kWordsPerTask));
    });
  }
  state.SetBytesProcessed(state.iterations() * kBytes);
}

BENCHMARK(BM_EmptyTasks)
    ->ArgsProduct({{1, 2}, {0, 20}})
    ->UseManualTime()
    ->MinTime(0.1)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_ReadInTasks)->Arg(1)->Arg(2)->UseRealTime()->MinTime(0.2);

}  // namespace
}  // namespace sluice
