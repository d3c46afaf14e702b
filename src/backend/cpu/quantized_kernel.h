// The kernel of products with matrices in blocks of codes; arithmetic in ops/quantized_matmul.h.
//
// The 16 rows of a panel of w are the lanes of a vector: a dot product of 32 codes is eight multiply-adds of
// four codes each per lane, with no sums across lanes. Several rows of x share what is read of a panel. The
// bits of an element depend neither on the tile that it falls into nor on the target.
#pragma once

#include <cstdint>

#include "ops/quantized_matrix.h"

namespace sluice {

// Rows of activations in 8 bits, one after another.
struct QuantizedRows {
  int8_t* codes = nullptr;     // [rows, in]
  float* scales = nullptr;     // [rows, in / 32]
  int32_t* offsets = nullptr;  // [rows, in / 32]: -128 · Σ codes, what the offset of packed kQ8 codes adds
  float* sums = nullptr;       // [rows, in / 32]: scale · Σ codes, what a minimum of 1 adds
  int64_t in = 0;
};

// A part of a matrix.
struct Rectangle {
  int64_t row_begin, row_end;
  int64_t column_begin, column_end;
};

// Rounds this part of the activations, whose first element is `x`, rows `x_stride` elements apart. REQUIRES:
// columns are cut at multiples of 32.
void QuantizeActivations(const float* x, int64_t x_stride, const Rectangle& part, const QuantizedRows& rows);

// This part of x times one expert's matrix; `y` is its first element, rows `y_stride` elements apart.
// REQUIRES: w is kQ8 or kQ4; columns are cut at multiples of 16, or end with the matrix.
void MultiplyQuantized(const QuantizedRows& x, const QuantizedMatrix& w, int64_t expert,
                       const Rectangle& part, float* y, int64_t y_stride);

}  // namespace sluice
