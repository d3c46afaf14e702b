// What the benchmarks of matrix products share: their arguments, and the two that the rest is compared with.
#pragma once

#include <benchmark/benchmark.h>
#include <cblas.h>

#include <algorithm>
#include <memory>
#include <span>

#include "backend/backend.h"
#include "backend/cpu/peaks.h"
#include "base/random.h"
#include "base/threads.h"
#include "tensor/tensor.h"

namespace sluice {

inline Buffer RandomBuffer(Shape shape) {
  Buffer buffer(DType::kF32, shape);
  Random random(7);
  for (float& value : std::span(buffer.view().data<float>(), static_cast<size_t>(shape.num_elements()))) {
    value = static_cast<float>(random.Uniform() - 0.5);
  }
  return buffer;
}

// `unit` is of 10^9, such as "GFLOP/s".
inline void ReportRate(benchmark::State& state, const char* unit, double per_iteration) {
  state.counters[unit] =
      benchmark::Counter(per_iteration * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

// A loop of backend/cpu/peaks.h on as many threads as the benchmark's argument says.
inline void MeasurePeak(benchmark::State& state, const char* unit, int64_t (*run)(int64_t steps)) {
  constexpr int64_t kSteps = 1 << 18;
  const int64_t threads = state.range(0);
  SetNumThreads(static_cast<int>(threads));
  for (auto _ : state) {
    ParallelFor(threads, [&](int64_t) { benchmark::DoNotOptimize(run(kSteps)); });
  }
  ReportRate(state, unit, static_cast<double>(run(1) * kSteps * threads));
}

// Arguments of the shape benchmarks: rows, in, out, threads.
struct ShapeArgs {
  explicit ShapeArgs(benchmark::State& state)
      : rows(state.range(0)), in(state.range(1)), out(state.range(2)), ops(MakeOps("cpu")) {
    SetNumThreads(static_cast<int>(state.range(3)));
  }
  double num_ops() const { return 2.0 * static_cast<double>(rows * in * out); }
  int64_t rows, in, out;
  std::unique_ptr<Ops> ops;
};

// Rows of a grouped product: as many for each of eight experts.
inline constexpr int64_t kExperts = 8;

inline Buffer EqualOffsets(int64_t rows) {
  Buffer offsets(DType::kI32, {kExperts + 1});
  for (int64_t e = 0; e <= kExperts; ++e) {
    offsets.view().data<int32_t>()[e] = static_cast<int32_t>(rows * e / kExperts);
  }
  return offsets;
}

inline void MeasureMatMul(benchmark::State& state, const char* unit) {
  const ShapeArgs shape(state);
  const Buffer x = RandomBuffer({shape.rows, shape.in});
  const Buffer w = RandomBuffer({shape.out, shape.in});
  const Buffer y = RandomBuffer({shape.rows, shape.out});
  for (auto _ : state) shape.ops->MatMul({x, w, y});
  ReportRate(state, unit, shape.num_ops());
}

// Split over rows by our threads.
inline void MeasureOpenBlas(benchmark::State& state, const char* unit) {
  const ShapeArgs shape(state);
  openblas_set_num_threads(1);
  const Buffer x = RandomBuffer({shape.rows, shape.in});
  const Buffer w = RandomBuffer({shape.out, shape.in});
  const Buffer y = RandomBuffer({shape.rows, shape.out});
  for (auto _ : state) {
    const int64_t grain = std::max<int64_t>(1, (shape.rows + state.range(3) - 1) / state.range(3));
    ParallelForRange(shape.rows, grain, [&](int64_t begin, int64_t end) {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(end - begin),
                  static_cast<blasint>(shape.out), static_cast<blasint>(shape.in), 1.0f,
                  x.view().row<float>(begin), static_cast<blasint>(shape.in), w.view().data<float>(),
                  static_cast<blasint>(shape.in), 0.0f, y.view().row<float>(begin),
                  static_cast<blasint>(shape.out));
    });
  }
  ReportRate(state, unit, shape.num_ops());
}

}  // namespace sluice
