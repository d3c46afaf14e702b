// Products of rounded activations with quantised matrices, in parallel, on the kernel of quantized_kernel.h.
// The cut into tasks depends on the shapes alone, and no element's bits depend on the cut.
#pragma once

#include <vector>

#include "backend/cpu/quantized_kernel.h"
#include "backend/cpu/scratch.h"

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
