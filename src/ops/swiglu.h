// SwiGLU (Shazeer, 2020): out[r, j] = silu(gate_up[r, j]) · gate_up[r, size + j].
#pragma once

#include "tensor/tensor.h"

namespace sluice {

struct SwiGluArgs {
  TensorView gate_up;  // [rows, 2 * size]: gate, then up
  TensorView out;      // [rows, size]
};

struct SwiGluGradArgs {
  TensorView gate_up;
  TensorView dout;      // [rows, size]
  TensorView dgate_up;  // [rows, 2 * size], overwritten
};

}  // namespace sluice
