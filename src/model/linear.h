// Products with a model's matrices in whatever format they have: the one place that looks at it.
#pragma once

#include "model/weights.h"
#include "ops/ops.h"

namespace sluice {

// y = x wᵀ; x [rows, in], y [rows, out].
void Multiply(Ops& ops, const TensorView& x, const MatrixWeights& w, const TensorView& y);
// The same for rows sorted by expert; `offsets` as in GroupedMatMulArgs (ops/matmul.h).
void MultiplyGrouped(Ops& ops, const TensorView& x, const MatrixWeights& w, const TensorView& offsets,
                     const TensorView& y);
// out[t] = row tokens[t] of the table.
void LookUp(Ops& ops, const TensorView& tokens, const MatrixWeights& table, const TensorView& out);

}  // namespace sluice
