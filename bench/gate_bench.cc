// Selecting far keys at growing depth, by the flat scan and by the tree: of one query, which is what a
// decoded token costs, and of a block of neighbouring ones, as in a prefill. For the flat scan of one query
// also how near it comes to the speed at which the same threads read the same keys. Keys are normal draws
// around directions of their own, as a text's are: alike in some hundred ways.
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
#include "model/pass.h"
#include "ops/gate_tree_buffers.h"
#include "tensor/tensor.h"

namespace sluice {
namespace {

constexpr int64_t kHeads = 4;
constexpr int64_t kSize = 32;
constexpr int64_t kTopK = 64;
constexpr int64_t kQueries = 64;  // Asked in turn.

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

// Keys around kDirections of their own, so that there are some alike.
Buffer Keys(int64_t num_keys) {
  constexpr int64_t kDirections = 512;
  const Buffer directions = Normal({kDirections, kSize}, 4);
  Buffer keys = Normal({num_keys, kSize}, 1);
  Random random(5);
  for (int64_t s = 0; s < num_keys; ++s) {
    const float* direction = directions.view().row<float>(static_cast<int64_t>(random.Below(kDirections)));
    float* key = keys.view().row<float>(s);
    for (int64_t c = 0; c < kSize; ++c) key[c] = direction[c] + 0.3f * key[c];
  }
  return keys;
}

// The keys of a timeline and the tree over them.
struct Index {
  Index(Ops& ops, int64_t num_keys, bool with_tree)
      : keys(num_keys, kSize), tree({KvCacheShape::kTreeGroup, with_tree ? num_keys : 0}, kSize) {
    ops.PackGateKeys({Keys(num_keys), 0, keys.View(num_keys)});
    if (!with_tree) return;
    const auto start = std::chrono::steady_clock::now();
    ops.BuildGateTree({keys.View(num_keys), 0, num_keys, tree.View(0)});
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    build_seconds = seconds.count();
    // Without the last group, which is the most that may have to be scanned.
    search = {tree.View(num_keys - 1), TreeOptions().beam, 0};
  }
  GateKeyBuffer keys;
  GateTreeBuffer tree;
  GateTreeSearch search;
  double build_seconds = 0;
};

// Blocks of `block` queries behind all keys.
void BM_SelectKeys(benchmark::State& state, bool with_tree, int64_t block) {
  const int64_t num_keys = state.range(0);
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const Index index(*ops, num_keys, with_tree);
  const Buffer gq = Normal({kQueries, kHeads, kSize}, 2);
  const Buffer gw = Normal({kQueries, kHeads}, 3);
  const Buffer candidates(DType::kI32, {block, kTopK});
  SelectKeysArgs args;
  args.keys = index.keys.View(num_keys);
  args.span.query_offset = num_keys - block;
  args.num_selected = kTopK;
  args.candidates = candidates;
  args.search = index.search;
  int64_t query = 0;
  const auto start = std::chrono::steady_clock::now();
  for (auto _ : state) {
    args.gq = gq.view().Rows(query, query + block);
    args.gw = gw.view().Rows(query, query + block);
    ops->SelectKeys(args);
    query = (query + block) % kQueries;
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const auto num_queries = static_cast<double>(state.iterations() * block);
  state.counters["us/query"] = 1e6 * seconds.count() / num_queries;
  if (with_tree) state.counters["build_us/key"] = 1e6 * index.build_seconds / static_cast<double>(num_keys);
  if (with_tree || block > 1) return;
  const TensorView codes = args.keys.packed;
  const double speed = static_cast<double>(codes.num_elements()) * num_queries / seconds.count();
  state.counters["GB/s"] = speed / 1e9;
  state.counters["share_of_read"] = speed / ReadSpeed(codes);
}

BENCHMARK_CAPTURE(BM_SelectKeys, flat, false, 1)
    ->RangeMultiplier(8)
    ->Range(2048, 1 << 23)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

void Depths(benchmark::internal::Benchmark* benchmark) {
  for (int64_t num_keys = 1 << 15; num_keys <= 1 << 20; num_keys *= 2) benchmark->Arg(num_keys);
  benchmark->MeasureProcessCPUTime()->UseRealTime()->Unit(benchmark::kMicrosecond);
}
BENCHMARK_CAPTURE(BM_SelectKeys, flat_decode, false, 1)->Apply(Depths);
BENCHMARK_CAPTURE(BM_SelectKeys, tree_decode, true, 1)->Apply(Depths);
BENCHMARK_CAPTURE(BM_SelectKeys, flat_prefill, false, kQueries)->Apply(Depths);
BENCHMARK_CAPTURE(BM_SelectKeys, tree_prefill, true, kQueries)->Apply(Depths);

}  // namespace
}  // namespace sluice
