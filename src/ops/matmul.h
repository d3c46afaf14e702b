// Matrix products against weights in the [out, in] layout of checkpoints: y = x wᵀ.
//
// The forward product of a row is the same bits whatever the other rows are and however many (one
// row at a time, in chunks, or all at once), so prefill, decode and training agree exactly. The
// gradients have no such promise, only that equal calls give equal bits at any thread count.
#pragma once

#include "tensor/tensor.h"

namespace sluice {

// y[r, n] = Σ_k x[r, k] w[n, k]
struct MatMulArgs {
  TensorView x;  // [rows, in]
  TensorView w;  // [out, in]
  TensorView y;  // [rows, out], overwritten
};

//   dx[r, k]     = Σ_n dy[r, n] w[n, k]
//   dw_acc[n, k] += Σ_r dy[r, n] x[r, k]
struct MatMulGradArgs {
  TensorView x;
  TensorView w;
  TensorView dy;
  TensorView dx;      // Overwritten; absent: not computed.
  TensorView dw_acc;  // Accumulated; absent: not computed.
};

// Rows sorted by expert: rows offsets[e] .. offsets[e + 1] are multiplied by w[e].
// Rows at and after offsets[experts] are left untouched.
struct GroupedMatMulArgs {
  TensorView x;        // [rows, in]
  TensorView w;        // [experts, out, in]
  TensorView offsets;  // i32 [experts + 1], ascending, offsets[0] = 0, offsets[experts] <= rows
  TensorView y;        // [rows, out]
};

struct GroupedMatMulGradArgs {
  TensorView x;
  TensorView w;
  TensorView offsets;
  TensorView dy;
  TensorView dx;      // [rows, in], overwritten; absent: not computed
  TensorView dw_acc;  // [experts, out, in], accumulated; absent: not computed
};

}  // namespace sluice
