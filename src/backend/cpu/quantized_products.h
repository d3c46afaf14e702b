// Products of rounded activations with quantised matrices, in parallel, on the kernel of quantized_kernel.h.
// The cut into tasks depends on the shapes alone, their order on the number of threads, and no element's bits
// on either.
#pragma once

#include <algorithm>
#include <vector>

#include "backend/cpu/quantized_kernel.h"
#include "backend/cpu/scratch.h"
#include "base/threads.h"

namespace sluice {

// Rows of x and y times one expert's matrix.
struct QuantizedProduct {
  QuantizedRows x;
  QuantizedMatrix w;  // kQ8 or kQ4
  int64_t expert = 0;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  TensorView y;
};

// A part of one of them.
struct ProductTask {
  const QuantizedProduct* product;
  Rectangle part;  // Of y.
};
// All parts of all products, share after share.
std::vector<ProductTask> TasksOf(const std::vector<QuantizedProduct>& products);

// Computes every product. REQUIRES: no output overlaps another's output or input.
void RunQuantizedProducts(const std::vector<QuantizedProduct>& products);

// Rounds all of x, in parallel. REQUIRES: `rows` has memory for them.
void QuantizeAll(const TensorView& x, const QuantizedRows& rows);
// Rows that a task rounds.
inline constexpr int64_t kRowsPerRounding = 16;

// Rows of a task of a product, at most: whole tiles. A panel that is in the first-level cache serves them
// all: 512 rows of 768 by 2,048 columns run at 0.64 of the peak with 48, at 0.72 with 96 (Zen 4).
inline constexpr int64_t kRowsPerTask = 96;
// The columns of a task, a multiple of `unit`, if each unit of them reads so many panels of w. Their codes
// are at home in the second-level cache while rows pass over them, and with one row still worth a task.
int64_t ColumnsPerTask(const QuantizedMatrix& w, int64_t unit, int64_t panels_per_unit);

// Tasks of several matrices are listed share after share: a thread's share of every matrix's columns, then
// the next thread's. ParallelFor cuts the list into as many ranges, so that a thread reads the same columns
// of every expert, whichever are chosen: with pinned threads they are memory of its own node, see
// QuantizedMatrixBuffer::Pack.
//
// Calls add(begin, end) for the tasks' columns in a share of [0, out), `columns` a task.
template <class Add>
void ForEachTaskOfShare(int64_t out, int64_t columns, int64_t share, const Add& add) {
  const int64_t tasks = (out + columns - 1) / columns, shares = NumThreads();
  for (int64_t i = tasks * share / shares; i < tasks * (share + 1) / shares; ++i) {
    add(i * columns, std::min(out, (i + 1) * columns));
  }
}

// This thread's scratch for so many rows.
template <class Tag>
QuantizedRows ScratchRows(int64_t count, int64_t in) {
  struct Codes;
  struct Scales;
  struct Offsets;
  struct Sums;
  const int64_t blocks = in / QuantizedMatrix::kBlock;
  QuantizedRows rows;
  rows.in = in;
  rows.codes = reinterpret_cast<int8_t*>(ThreadScratch<Codes>(count * in / 4));
  rows.scales = ThreadScratch<Scales>(count * blocks);
  rows.offsets = reinterpret_cast<int32_t*>(ThreadScratch<Offsets>(count * blocks));
  rows.sums = ThreadScratch<Sums>(count * blocks);
  return rows;
}

}  // namespace sluice
