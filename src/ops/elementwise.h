// Elementwise and reduction helpers that layers are glued with. All views: the backend's dtype.
#pragma once

#include "tensor/tensor.h"

namespace sluice {

// out[i] += x[i], same shape.
struct AddArgs {
  TensorView x;
  TensorView out;
};

// x[i] *= factor, in place.
struct ScaleArgs {
  TensorView x;
  double factor = 1;
};

// out[i] = x[i] · sigmoid(x[i]), same shape.
struct SiluArgs {
  TensorView x;
  TensorView out;
};
struct SiluGradArgs {
  TensorView x;
  TensorView dout;
  TensorView dx;  // Overwritten; may be the same memory as dout.
};

// *result = Σ x[i]², in float64, in a fixed order.
struct SumSquaresArgs {
  TensorView x;
  double* result = nullptr;
};

}  // namespace sluice
