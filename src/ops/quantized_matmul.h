// Products of float activations with quantised matrices, y ≈ x wᵀ, for inference: they have no gradient.
//
// Formats with blocks (ops/quantized_matrix.h): each block of 32 activations of a row is rounded to 8 bits as
// well (quantized_numerics.h: scale sx = max|x| / 127, codes cx to nearest even). With sw, cw and mw the
// block's scale, codes and minimum of row n of w, ascending over blocks b:
//   dot[b]  = Σ_k cx[k] cw[k],  sum[b] = Σ_k cx[k]    exact, integers
//   y[r, n] = fma(dot[b], sx[b] · sw[b], y[r, n])     float32, from 0; each step rounds twice: the product of
//                                                     the scales, and the sum
//   y[r, n] = fma(mw[b], sx[b] · sum[b], y[r, n])     kQ4 alone, after the former
// All operations and their order are fixed, so y[r, n] is the same bits whatever the other rows are, however
// they are cut, and on every target. A NaN or infinity in a row of x makes all of this row of y NaN.
//
// kBF16: MatMul (ops/matmul.h) of the weights in float32, bit for bit; activations are not rounded.
#pragma once

#include "ops/quantized_matrix.h"

namespace sluice {

struct QuantizedMatMulArgs {
  TensorView x;       // [rows, in]
  QuantizedMatrix w;  // One matrix [out, in]
  TensorView y;       // [rows, out], overwritten
};

// Rows sorted by expert: rows offsets[e] .. offsets[e + 1] are multiplied by w[e].
// Rows at and after offsets[experts] are left untouched.
struct GroupedQuantizedMatMulArgs {
  TensorView x;        // [rows, in]
  QuantizedMatrix w;   // [experts, out, in]
  TensorView offsets;  // i32 [experts + 1], ascending, offsets[0] = 0, offsets[experts] <= rows
  TensorView y;        // [rows, out]
};

// out[t] = row tokens[t] of the table, as QuantizedMatrix::Weight.
struct QuantizedEmbeddingArgs {
  TensorView tokens;      // i32 [tokens], each in [0, vocab)
  QuantizedMatrix table;  // One matrix [vocab, hidden]
  TensorView out;         // [tokens, hidden]
};

}  // namespace sluice
