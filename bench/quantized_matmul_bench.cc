// Speed of products with quantised matrices, next to what limits them, measured in the same run: many rows in
// Gop/s against the float32 kernel, OpenBLAS and the machine's own peak of 8-bit multiply-adds that never
// leave the registers; one row in GB/s of weights against a plain read of as many bytes. The matrices of the
// one-row benchmarks take turns, 512 MiB of them together, so that they come from memory and not from a
// cache. Arguments: rows, in, out, threads. Compare within one run only.
#include <algorithm>
#include <vector>

#include "products.h"
#include "quantized_matrices.h"

namespace sluice {
namespace {

constexpr const char* kUnit = "Gop/s";
constexpr int64_t kBytesFromMemory = int64_t{512} << 20;

void BM_Peak8Bit(benchmark::State& state) {
  MeasurePeak(state, kUnit, RunInt8Peak);
}

template <WeightFormat kFormat>
void BM_QuantizedMatMul(benchmark::State& state) {
  const ShapeArgs shape(state);
  const Buffer x = RandomBuffer({shape.rows, shape.in});
  const QuantizedMatrixBuffer w = RandomMatrix(kFormat, 1, shape.out, shape.in);
  const Buffer y = RandomBuffer({shape.rows, shape.out});
  for (auto _ : state) shape.ops->QuantizedMatMul({x, w.view(), y});
  ReportRate(state, kUnit, shape.num_ops());
}

void BM_MatMul(benchmark::State& state) {
  MeasureMatMul(state, kUnit);
}

void BM_OpenBlas(benchmark::State& state) {
  MeasureOpenBlas(state, kUnit);
}

template <WeightFormat kFormat>
void BM_GroupedQuantizedMatMul(benchmark::State& state) {
  const ShapeArgs shape(state);
  const Buffer x = RandomBuffer({shape.rows, shape.in});
  const QuantizedMatrixBuffer w = RandomMatrix(kFormat, kExperts, shape.out, shape.in);
  const Buffer y = RandomBuffer({shape.rows, shape.out});
  const Buffer offsets = EqualOffsets(shape.rows);
  for (auto _ : state) shape.ops->GroupedQuantizedMatMul({x, w.view(), offsets, y});
  ReportRate(state, kUnit, shape.num_ops());
}

// One row by many matrices in turn: GB/s of codes, scales and minimums.
template <WeightFormat kFormat>
void BM_QuantizedRow(benchmark::State& state) {
  const ShapeArgs shape(state);
  const int64_t bytes = QuantizedMatrixBuffer::BytesFor(kFormat, 1, shape.out, shape.in);
  std::vector<QuantizedMatrixBuffer> matrices;
  for (int64_t i = 0; i < kBytesFromMemory / bytes; ++i)
    matrices.push_back(RandomMatrix(kFormat, 1, shape.out, shape.in));
  const Buffer x = RandomBuffer({1, shape.in});
  const Buffer y = RandomBuffer({1, shape.out});
  size_t next = 0;
  for (auto _ : state) {
    shape.ops->QuantizedMatMul({x, matrices[next].view(), y});
    next = (next + 1) % matrices.size();
  }
  ReportRate(state, "GB/s", static_cast<double>(bytes));
}

void BM_FloatRow(benchmark::State& state) {
  const ShapeArgs shape(state);
  const int64_t bytes = shape.out * shape.in * static_cast<int64_t>(sizeof(float));
  std::vector<Buffer> matrices;
  for (int64_t i = 0; i < kBytesFromMemory / bytes; ++i)
    matrices.push_back(RandomBuffer({shape.out, shape.in}));
  const Buffer x = RandomBuffer({1, shape.in});
  const Buffer y = RandomBuffer({1, shape.out});
  size_t next = 0;
  for (auto _ : state) {
    shape.ops->MatMul({x, matrices[next], y});
    next = (next + 1) % matrices.size();
  }
  ReportRate(state, "GB/s", static_cast<double>(bytes));
}

// A plain read of kBytesFromMemory, cut into one part for each thread.
void BM_Read(benchmark::State& state) {
  const int64_t threads = state.range(0);
  SetNumThreads(static_cast<int>(threads));
  const Buffer memory(DType::kI64, {kBytesFromMemory / 8});
  memory.view().Zero();  // Pages that nobody has written are all the same one, which stays in the cache.
  const auto* words = static_cast<const uint64_t*>(memory.view().raw());
  const int64_t part = kBytesFromMemory / 8 / threads;
  for (auto _ : state) {
    ParallelFor(threads, [&](int64_t t) { benchmark::DoNotOptimize(ReadWords(words + t * part, part)); });
  }
  ReportRate(state, "GB/s", static_cast<double>(kBytesFromMemory));
}

void Shapes(benchmark::internal::Benchmark* bench) {
  for (const int64_t threads : {1, 2}) {
    bench->Args({512, 256, 512, threads})->Args({512, 256, 4096, threads})->Args({512, 768, 2048, threads});
  }
  bench->Args({8, 768, 2048, 1});
}

void RowShapes(benchmark::internal::Benchmark* bench) {
  for (const int64_t threads : {1, 2}) bench->Args({1, 256, 4096, threads})->Args({1, 768, 2048, threads});
}

void ExpertShapes(benchmark::internal::Benchmark* bench) {
  for (const int64_t threads : {1, 2})
    bench->Args({1024, 256, 256, threads})->Args({1024, 768, 2048, threads});
}

BENCHMARK(BM_Peak8Bit)->Arg(1)->Arg(2)->UseRealTime()->MinTime(0.1);
BENCHMARK(BM_QuantizedMatMul<WeightFormat::kQ8>)->Apply(Shapes)->UseRealTime()->MinTime(0.1);
BENCHMARK(BM_QuantizedMatMul<WeightFormat::kQ4>)->Apply(Shapes)->UseRealTime()->MinTime(0.1);
BENCHMARK(BM_QuantizedMatMul<WeightFormat::kBF16>)->Apply(Shapes)->UseRealTime()->MinTime(0.1);
BENCHMARK(BM_MatMul)->Apply(Shapes)->UseRealTime()->MinTime(0.1);
BENCHMARK(BM_OpenBlas)->Apply(Shapes)->UseRealTime()->MinTime(0.1);
BENCHMARK(BM_GroupedQuantizedMatMul<WeightFormat::kQ8>)->Apply(ExpertShapes)->UseRealTime()->MinTime(0.1);
BENCHMARK(BM_GroupedQuantizedMatMul<WeightFormat::kQ4>)->Apply(ExpertShapes)->UseRealTime()->MinTime(0.1);
BENCHMARK(BM_GroupedQuantizedMatMul<WeightFormat::kBF16>)->Apply(ExpertShapes)->UseRealTime()->MinTime(0.1);
BENCHMARK(BM_Read)->Arg(1)->Arg(2)->UseRealTime()->MinTime(0.2);
BENCHMARK(BM_QuantizedRow<WeightFormat::kQ8>)->Apply(RowShapes)->UseRealTime()->MinTime(0.2);
BENCHMARK(BM_QuantizedRow<WeightFormat::kQ4>)->Apply(RowShapes)->UseRealTime()->MinTime(0.2);
BENCHMARK(BM_QuantizedRow<WeightFormat::kBF16>)->Apply(RowShapes)->UseRealTime()->MinTime(0.2);
BENCHMARK(BM_FloatRow)->Apply(RowShapes)->UseRealTime()->MinTime(0.2);

}  // namespace
}  // namespace sluice
