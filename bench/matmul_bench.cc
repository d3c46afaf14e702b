// Speed of the float32 matrix products in GFLOP/s on the shapes of models/nano, next to OpenBLAS on the
// same shapes and to the machine's own peak, measured by multiply-adds that never leave the registers.
// Each runs with 1 and 2 threads (the last argument). OpenBLAS is split over rows by our threads.
// Compare within one run only.
#include <immintrin.h>

#include "products.h"

namespace sluice {
namespace {

constexpr const char* kUnit = "GFLOP/s";

// Ten independent chains hide the latency of a fused multiply-add; each starts from another value, or
// the compiler would see that they are one. Returns a value to keep alive.
__attribute__((target("avx2,fma"))) float PeakAvx2(int64_t steps) {
  __m256 chains[10];
#pragma GCC unroll 10
  for (int c = 0; c < 10; ++c) chains[c] = _mm256_set1_ps(static_cast<float>(c));
  const __m256 factor = _mm256_set1_ps(0.999f);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 10
    for (int c = 0; c < 10; ++c) chains[c] = _mm256_fmadd_ps(chains[c], factor, factor);
  }
#pragma GCC unroll 10
  for (int c = 1; c < 10; ++c) chains[0] = _mm256_add_ps(chains[0], chains[c]);
  return _mm256_cvtss_f32(chains[0]);
}

__attribute__((target("avx512f"))) float PeakAvx512(int64_t steps) {
  __m512 chains[10];
#pragma GCC unroll 10
  for (int c = 0; c < 10; ++c) chains[c] = _mm512_set1_ps(static_cast<float>(c));
  const __m512 factor = _mm512_set1_ps(0.999f);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 10
    for (int c = 0; c < 10; ++c) chains[c] = _mm512_fmadd_ps(chains[c], factor, factor);
  }
#pragma GCC unroll 10
  for (int c = 1; c < 10; ++c) chains[0] = _mm512_add_ps(chains[0], chains[c]);
  return _mm512_cvtss_f32(chains[0]);
}

void BM_Peak(benchmark::State& state) {
  SetNumThreads(static_cast<int>(state.range(0)));
  constexpr int64_t kSteps = 1 << 18;
  const bool wide = __builtin_cpu_supports("avx512f") > 0;
  for (auto _ : state) {
    ParallelFor(state.range(0),
                [&](int64_t) { benchmark::DoNotOptimize(wide ? PeakAvx512(kSteps) : PeakAvx2(kSteps)); });
  }
  ReportRate(state, kUnit, 2.0 * 10 * (wide ? 16 : 8) * kSteps * static_cast<double>(state.range(0)));
}

void BM_MatMul(benchmark::State& state) {
  MeasureMatMul(state, kUnit);
}

void BM_OpenBlas(benchmark::State& state) {
  MeasureOpenBlas(state, kUnit);
}

void BM_MatMulGrad(benchmark::State& state) {
  const ShapeArgs shape(state);
  const Buffer x = RandomBuffer({shape.rows, shape.in});
  const Buffer w = RandomBuffer({shape.out, shape.in});
  const Buffer dy = RandomBuffer({shape.rows, shape.out});
  const Buffer dx = RandomBuffer({shape.rows, shape.in});
  const Buffer dw = RandomBuffer({shape.out, shape.in});
  for (auto _ : state) shape.ops->MatMulGrad({x, w, dy, dx, dw});
  ReportRate(state, kUnit, 2 * shape.num_ops());
}

void BM_GroupedMatMul(benchmark::State& state) {
  const ShapeArgs shape(state);
  const Buffer x = RandomBuffer({shape.rows, shape.in});
  const Buffer w = RandomBuffer({kExperts, shape.out, shape.in});
  const Buffer y = RandomBuffer({shape.rows, shape.out});
  const Buffer offsets = EqualOffsets(shape.rows);
  for (auto _ : state) shape.ops->GroupedMatMul({x, w, offsets, y});
  ReportRate(state, kUnit, shape.num_ops());
}

void BM_GroupedMatMulGrad(benchmark::State& state) {
  const ShapeArgs shape(state);
  const Buffer x = RandomBuffer({shape.rows, shape.in});
  const Buffer w = RandomBuffer({kExperts, shape.out, shape.in});
  const Buffer dy = RandomBuffer({shape.rows, shape.out});
  const Buffer dx = RandomBuffer({shape.rows, shape.in});
  const Buffer dw = RandomBuffer({kExperts, shape.out, shape.in});
  const Buffer offsets = EqualOffsets(shape.rows);
  for (auto _ : state) shape.ops->GroupedMatMulGrad({x, w, offsets, dy, dx, dw});
  ReportRate(state, kUnit, 2 * shape.num_ops());
}

void Shapes(benchmark::internal::Benchmark* bench) {
  for (const int64_t threads : {1, 2}) {
    bench->Args({4096, 256, 256, threads})->Args({4096, 256, 128, threads});
    bench->Args({4096, 256, 512, threads})->Args({512, 256, 4096, threads});
  }
}

void ExpertShapes(benchmark::internal::Benchmark* bench) {
  for (const int64_t threads : {1, 2}) {
    bench->Args({8192, 256, 256, threads})->Args({8192, 128, 256, threads});
  }
}

void DecodeShapes(benchmark::internal::Benchmark* bench) {
  bench->Args({1, 256, 256, 1})->Args({1, 256, 4096, 1})->Args({1, 256, 4096, 2});
}

BENCHMARK(BM_Peak)->Arg(1)->Arg(2)->UseRealTime()->MinTime(0.1);
BENCHMARK(BM_OpenBlas)->Apply(Shapes)->UseRealTime()->MinTime(0.1);
BENCHMARK(BM_MatMul)->Apply(Shapes)->Apply(DecodeShapes)->UseRealTime()->MinTime(0.1);
BENCHMARK(BM_MatMulGrad)->Apply(Shapes)->UseRealTime()->MinTime(0.1);
BENCHMARK(BM_GroupedMatMul)->Apply(ExpertShapes)->UseRealTime()->MinTime(0.1);
BENCHMARK(BM_GroupedMatMulGrad)->Apply(ExpertShapes)->UseRealTime()->MinTime(0.1);

}  // namespace
}  // namespace sluice
