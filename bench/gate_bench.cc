// Selecting the far keys of one query by the flat scan: what a decoded token costs at growing depth, and
// how near it comes to the speed at which the same threads read the same keys.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "backend/backend.h"
#include "base/random.h"
#include "base/threads.h"
#include "tensor/tensor.h"

namespace sluice {
namespace {

constexpr int64_t kHeads = 4;
constexpr int64_t kSize = 32;
constexpr int64_t kTopK = 64;
constexpr int64_t kQueries = 16;  // Asked in turn, one at a time.

Buffer Normal(const Shape& shape, uint64_t seed) {
  Buffer buffer(DType::kF32, shape);
  Random random(seed);
  float* values = buffer.view().data<float>();
  for (int64_t i = 0; i < buffer.view().num_elements(); ++i) values[i] = static_cast<float>(random.Normal());
  return buffer;
}

// Sums the bytes as 64-bit words on all threads; the fastest of several, in bytes per second.
double ReadSpeed(const TensorView& codes) {
  const auto words = static_cast<int64_t>(codes.num_elements()) / 8;
  const auto* data = static_cast<const uint64_t*>(codes.raw());
  double best = 0;
  for (int repeat = 0; repeat < 20; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    ParallelFor(NumThreads(), [&](int64_t i) {
      const int64_t begin = words * i / NumThreads(), end = words * (i + 1) / NumThreads();
      benchmark::DoNotOptimize(std::accumulate(data + begin, data + end, uint64_t{0}));
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(words * 8) / seconds.count());
  }
  return best;
}

void BM_SelectKeys(benchmark::State& state) {
  const int64_t num_keys = state.range(0);
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const Buffer gk = Normal({num_keys, kSize}, 1);
  const Buffer gq = Normal({kQueries, kHeads, kSize}, 2);
  const Buffer gw = Normal({kQueries, kHeads}, 3);
  const Buffer codes(DType::kI8, {num_keys / GateKeyView::kGroup, kSize / 2, GateKeyView::kGroup, 2});
  const Buffer scale(DType::kF16, {num_keys});
  const Buffer candidates(DType::kI32, {1, kTopK});
  const GateKeyView keys = {codes, scale, num_keys};
  ops->PackGateKeys({gk, 0, keys});
  SelectKeysArgs args;
  args.keys = keys;
  args.span.query_offset = num_keys - 1;
  args.num_selected = kTopK;
  args.candidates = candidates;
  int64_t query = 0;
  const auto start = std::chrono::steady_clock::now();
  for (auto _ : state) {
    args.gq = gq.view().Rows(query, query + 1);
    args.gw = gw.view().Rows(query, query + 1);
    ops->SelectKeys(args);
    query = (query + 1) % kQueries;
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const double speed =
      static_cast<double>(codes.view().num_elements() * state.iterations()) / seconds.count();
  state.counters["GB/s"] = speed / 1e9;
  state.counters["share_of_read"] = speed / ReadSpeed(codes);
}

BENCHMARK(BM_SelectKeys)
    ->RangeMultiplier(8)
    ->Range(2048, 1 << 23)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace sluice
