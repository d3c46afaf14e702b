// Full attention of the engine next to a straightforward blocked one on OpenBLAS, on the shape of
// models/nano: 8 query heads on one key/value head of size 64. The last queries of a long context; GFLOP/s
// of the products (2 per multiply-add, exp not counted). Both run with 1 and 2 threads (the last argument).
// Compare within one run only.
//
// The blocked one takes 32 tokens, whose 256 head rows share the keys, and goes through the keys 256 at a
// time: scores S = Q K^T (sgemm), running maximum and sum per row, output O = O · rescale + P V (sgemm).
// Its exponential is a polynomial that the compiler vectorises; a scalar one took half of the time.
#include <benchmark/benchmark.h>
#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "base/random.h"
#include "base/threads.h"
#include "tensor/tensor.h"

namespace sluice {
namespace {

constexpr int64_t kHeads = 8;
constexpr int64_t kSize = 64;
constexpr int64_t kWindow = 128;
constexpr int64_t kSinks = 4;
constexpr int64_t kTileTokens = 32;
constexpr int64_t kTileRows = kTileTokens * kHeads;
constexpr int64_t kKeyBlock = 256;  // 128 is as fast, 512 a fifth slower.

Buffer RandomBuffer(Shape shape, uint64_t seed) {
  Buffer buffer(DType::kF32, shape);
  Random random(seed);
  for (float& value : std::span(buffer.view().data<float>(), static_cast<size_t>(shape.num_elements()))) {
    value = static_cast<float>(random.Normal());
  }
  return buffer;
}

// The largest of n values, n a multiple of 16.
__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) float MaxOfRow(const float* x,
                                                                                             int64_t n) {
  constexpr int64_t kLanes = 16;
  float lanes[kLanes];
  std::copy_n(x, kLanes, lanes);
  for (int64_t i = kLanes; i < n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] = lanes[lane] > x[i + lane] ? lanes[lane] : x[i + lane];
  }
  return *std::max_element(lanes, lanes + kLanes);
}

// x[i] = e^(x[i] − shift), relative error below 1e-5; returns their sum.
__attribute__((optimize("fast-math"), target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) float
ExpRow(float* x, int64_t n, float shift) {
  constexpr int64_t kLanes = 16;
  constexpr float kLog2E = 1.44269504f;
  int32_t bits[kLanes];
  float powers[kLanes];
  for (int64_t i = 0; i < n; i += kLanes) {
    float* part = x + i;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float scaled = (part[lane] - shift) * kLog2E;
      const float y = scaled > -126.0f ? scaled : -126.0f;
      const auto whole = static_cast<int32_t>(y - 0.5f);  // y <= 0: towards zero is to the nearest.
      const float f = (y - static_cast<float>(whole)) * 0.693147181f;
      part[lane] = 1 + f * (1 + f * (0.5f + f * (0.166666667f + f * (0.0416666667f + f * 8.3333333e-3f))));
      bits[lane] = (whole + 127) * (1 << 23);
    }
    std::memcpy(powers, bits, sizeof(powers));  // 2^whole
    for (int64_t lane = 0; lane < kLanes; ++lane) part[lane] *= powers[lane];
  }
  float sums[kLanes] = {};
  for (int64_t i = 0; i < n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += x[i + lane];
  }
  float sum = 0;
  for (const float lane : sums) sum += lane;
  return sum;
}

struct Problem {
  int64_t tokens, keys;
  std::unique_ptr<Ops> ops = MakeOps("cpu");
  Buffer q, k, v, sink_logit, out;
  AttentionInputs in;

  explicit Problem(const benchmark::State& state)
      : tokens(state.range(0)),
        keys(state.range(1)),
        q(RandomBuffer({tokens, kHeads, kSize}, 1)),
        k(RandomBuffer({keys, 1, kSize}, 2)),
        v(RandomBuffer({keys, 1, kSize}, 3)),
        sink_logit(RandomBuffer({kHeads}, 4)),
        out(DType::kF32, {tokens, kHeads, kSize}) {
    SetNumThreads(static_cast<int>(state.range(2)));
    openblas_set_num_threads(1);
    // Rotated and unrotated are the same here: the blocked one knows no window.
    in.q = in.q_rot = q;
    in.k_rot = k;
    in.k = k.view();
    in.v = v.view();
    in.sink_logit = sink_logit;
    in.span = {keys - tokens, {}, kWindow, kSinks};
  }

  void Report(benchmark::State& state) const {
    const double seen = static_cast<double>(tokens) *
                        (static_cast<double>(keys - tokens) + static_cast<double>(tokens + 1) / 2);
    state.counters["GFLOP/s"] =
        benchmark::Counter(seen * 4 * kHeads * kSize * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  }
};

// Output of the tokens [begin, begin + kTileTokens).
void BlockedTile(const Problem& p, int64_t begin) {
  std::vector<float> scores(kTileRows * kKeyBlock);
  std::vector<float> largest(kTileRows), sum(kTileRows, 1.0f);
  for (int64_t row = 0; row < kTileRows; ++row)
    largest[static_cast<size_t>(row)] = p.sink_logit.view().data<float>()[row % kHeads];
  float* out = p.out.view().row<float>(begin);
  std::fill_n(out, kTileRows * kSize, 0.0f);
  const int64_t first = p.keys - p.tokens + begin;  // Position of the tile's first token.
  for (int64_t block = 0; block < first + kTileTokens; block += kKeyBlock) {
    const int64_t count = std::min(kKeyBlock, first + kTileTokens - block);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, kTileRows, static_cast<blasint>(count), kSize,
                1.0f / std::sqrt(static_cast<float>(kSize)), p.q.view().row<float>(begin), kSize,
                p.k.view().row<float>(block), kSize, 0.0f, scores.data(), kKeyBlock);
    for (int64_t row = 0; row < kTileRows; ++row) {
      float* s = scores.data() + row * kKeyBlock;
      const int64_t visible = std::clamp<int64_t>(first + row / kHeads + 1 - block, 0, count);
      std::fill(s + visible, s + kKeyBlock, -std::numeric_limits<float>::infinity());
      float& old = largest[static_cast<size_t>(row)];
      const float top = std::max(old, MaxOfRow(s, kKeyBlock));
      const float rescale = std::exp(old - top);
      old = top;
      float& total = sum[static_cast<size_t>(row)];
      total = total * rescale + ExpRow(s, kKeyBlock, top);
      if (rescale != 1.0f) {
        for (int64_t c = 0; c < kSize; ++c) out[row * kSize + c] *= rescale;
      }
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, kTileRows, kSize, static_cast<blasint>(count),
                1.0f, scores.data(), kKeyBlock, p.v.view().row<float>(block), kSize, 1.0f, out, kSize);
  }
  for (int64_t row = 0; row < kTileRows; ++row) {
    for (int64_t c = 0; c < kSize; ++c) out[row * kSize + c] /= sum[static_cast<size_t>(row)];
  }
}

void Blocked(const Problem& p) {
  ParallelFor(p.tokens / kTileTokens, [&](int64_t tile) { BlockedTile(p, tile * kTileTokens); });
}

void BM_Engine(benchmark::State& state) {
  const Problem p(state);
  for (auto _ : state) p.ops->FullAttention({p.in, p.out, {}});
  p.Report(state);
}

void BM_OpenBlas(benchmark::State& state) {
  const Problem p(state);
  p.ops->FullAttention({p.in, p.out, {}});
  const float* out = p.out.view().data<float>();
  const std::vector<float> wanted(out, out + p.out.view().num_elements());
  for (auto _ : state) Blocked(p);
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (!(std::abs(out[i] - wanted[i]) < 1e-4f)) return state.SkipWithError("the two outputs differ");
  }
  p.Report(state);
}

void Lengths(benchmark::internal::Benchmark* bench) {
  for (const int64_t threads : {1, 2}) {
    for (const int64_t keys : {4096, 16384, 65536}) bench->Args({1024, keys, threads});
  }
}

BENCHMARK(BM_OpenBlas)->Apply(Lengths)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(BM_Engine)->Apply(Lengths)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sluice
