// Speed of the float32 matrix products in GFLOP/s on the shapes of models/nano, next to OpenBLAS on the
// same shapes and to the machine's own peak, measured by multiply-adds that never leave the registers.
// Each runs with 1 and 2 threads (the last argument). OpenBLAS is split over rows by our threads.
// Compare within one run only.
#include "products.h"

namespace sluice {
namespace {

constexpr const char* kUnit = "GFLOP/s";

void BM_Peak(benchmark::State& state) {
  MeasurePeak(state, kUnit, RunFloatPeak);
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
