// Random matrices in every format, for the cases of ops that take them.
#pragma once

#include <memory>

#include "ops/quantized_matrix.h"

namespace sluice {

Buffer RandomWeights(int64_t rows, int64_t in, uint64_t seed);

// Random weights, shared by the copies of a case. Half of the rows have the largest codes throughout (-127 or
// 127, or 15) and stand against activations of the same size: where 16 bits would overflow.
std::shared_ptr<const QuantizedMatrixBuffer> RandomMatrix(WeightFormat format, int64_t experts, int64_t out,
                                                          int64_t in);

}  // namespace sluice
