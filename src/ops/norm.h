// RMSNorm (Zhang & Sennrich, 2019): out[r, j] = x[r, j] / sqrt(mean_j x[r, j]² + eps) · weight[j].
// QK-norm is the same op on rows of one head each.
#pragma once

#include "tensor/tensor.h"

namespace sluice {

struct RmsNormArgs {
  TensorView x;       // [rows, size]
  TensorView weight;  // [size]
  double eps = 1e-6;
  TensorView out;  // [rows, size]
};

struct RmsNormGradArgs {
  TensorView x;
  TensorView weight;
  double eps = 1e-6;
  TensorView dout;         // [rows, size]
  TensorView dx;           // [rows, size], overwritten
  TensorView dweight_acc;  // [size]
};

}  // namespace sluice
