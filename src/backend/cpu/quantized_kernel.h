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

// Rounds rows [begin, end) of x, `x_stride` elements apart. REQUIRES: in is a multiple of 32.
void QuantizeActivationRows(const float* x, int64_t x_stride, int64_t begin, int64_t end,
                            const QuantizedRows& rows);

// Rows of x times one expert's matrix.
struct QuantizedProduct {
  QuantizedRows x;
  QuantizedMatrix w;  // kQ8 or kQ4
  int64_t expert = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

// Rows [r_begin, r_end) × columns [n_begin, n_end) of y. REQUIRES: n_begin is a multiple of 16, and n_end is
// one or is w.out.
void MultiplyQuantized(const QuantizedProduct& product, int64_t r_begin, int64_t r_end, int64_t n_begin,
                       int64_t n_end);

}  // namespace sluice
