// Products with a model's matrices in whatever format they have: the one place that looks at it.
#pragma once

#include <initializer_list>
#include <vector>

#include "model/weights.h"
#include "ops/ops.h"

namespace sluice {

// y = x wᵀ; x [rows, in], y [rows, out].
void Multiply(Ops& ops, const TensorView& x, const MatrixWeights& w, const TensorView& y);
// The same for rows sorted by expert; `offsets` as in GroupedMatMulArgs (ops/matmul.h).
void MultiplyGrouped(Ops& ops, const TensorView& x, const MatrixWeights& w, const TensorView& offsets,
                     const TensorView& y);

struct NormedProduct {
  const MatrixWeights& w;
  TensorView y;
};
// norm.out = RmsNorm(norm.x), then y = norm.out wᵀ for each product; in one op where all matrices are in
// blocks.
void MultiplyNormed(Ops& ops, const RmsNormArgs& norm, const std::vector<NormedProduct>& products);

// Whether matrices are in blocks, all of them, so that fused ops take them (ops/quantized_fused.h).
bool AreInBlocks(std::initializer_list<const MatrixWeights*> matrices);

// out[t] = row tokens[t] of the table.
void LookUp(Ops& ops, const TensorView& tokens, const MatrixWeights& table, const TensorView& out);

}  // namespace sluice
