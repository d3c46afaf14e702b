// Optimiser steps on parameters, in place.
#pragma once

#include "tensor/tensor.h"

namespace sluice {

// AdamW (Loshchilov & Hutter, 2019), with bias correction for `step` >= 1:
//   m = β1 m + (1 − β1) g;  v = β2 v + (1 − β2) g²
//   param -= lr · (m̂ / (sqrt(v̂) + eps) + weight_decay · param)
struct AdamWArgs {
  TensorView param;
  TensorView grad;
  TensorView m;
  TensorView v;
  double lr = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0;
  int64_t step = 1;
};

// Muon (Jordan et al., 2024; scaled as in Liu et al., "Muon is scalable", 2025). Per matrix:
//   momentum = mu · momentum + grad;  u = grad + mu · momentum (Nesterov)
//   o = Newton-Schulz(u / ‖u‖_F), `iterations` times: X ← a X + (b A + c A²) X, A = X Xᵀ,
//       (a, b, c) = (3.4445, −4.7750, 2.0315), on the transpose where rows > cols
//   param -= lr · (0.2 · sqrt(max(rows, cols)) · o + weight_decay · param)
struct MuonArgs {
  TensorView param;  // [rows, cols], contiguous, or [matrices, rows, cols]: each matrix by itself
  TensorView grad;
  TensorView momentum;
  double lr = 0;
  double mu = 0.95;
  double weight_decay = 0;
  int iterations = 5;
};

}  // namespace sluice
