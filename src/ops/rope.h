// Rotary position embedding (Su et al., 2021), in the half-split layout of Hugging Face's Llama:
// with a = position · theta^(-2j/d), j < d/2,
//   out[j]       = x[j] cos a − x[j + d/2] sin a
//   out[j + d/2] = x[j + d/2] cos a + x[j] sin a
// Angles are reduced in float64 so that position 131,071 is as exact as position 1.
#pragma once

#include "tensor/tensor.h"

namespace sluice {

struct RopeArgs {
  TensorView x;          // [tokens, heads, head_size], head_size even
  TensorView positions;  // i32 [tokens], >= 0
  double theta = 10000;
  TensorView out;  // as x; may not alias it
};

// The transpose: dx = R(position)ᵀ dout.
struct RopeGradArgs {
  TensorView dout;
  TensorView positions;
  double theta = 10000;
  TensorView dx;  // Overwritten; may not alias dout.
};

}  // namespace sluice
