// Matrices in every format for benchmarks: their values do not matter.
#pragma once

#include <algorithm>

#include "ops/quantized_matrix.h"
#include "tensor/float16.h"

namespace sluice {

inline void FillHalves(const TensorView& view, uint16_t value) {
  if (view.present()) std::fill_n(static_cast<uint16_t*>(view.raw()), view.num_elements(), value);
}

// Codes of every value, scales and minimums of one.
inline QuantizedMatrixBuffer RandomMatrix(WeightFormat format, int64_t experts, int64_t out, int64_t in) {
  QuantizedMatrixBuffer matrix(format, experts, out, in);
  const QuantizedMatrix& view = matrix.view();
  if (HasBlocks(format)) {
    uint8_t* codes = view.codes.data<uint8_t>();
    for (int64_t i = 0; i < view.codes.num_elements(); ++i) codes[i] = static_cast<uint8_t>(1 + i * 37 % 255);
  } else {
    FillHalves(view.codes, BF16FromFloat(0.01f));
  }
  FillHalves(view.scales, F16FromFloat(0.01f));
  FillHalves(view.mins, F16FromFloat(-0.07f));
  return matrix;
}

}  // namespace sluice
