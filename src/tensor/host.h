// Element access for host code that does not care which real type a contiguous tensor has.
#pragma once

#include "tensor/tensor.h"

namespace sluice {

// Element i of a contiguous f32, f64 or Tracked tensor, as float64; and the reverse.
double LoadElement(const TensorView& x, int64_t i);
void StoreElement(const TensorView& x, int64_t i, double value);

// Σ x[i] in float64, in order.
double SumOf(const TensorView& x);

}  // namespace sluice
