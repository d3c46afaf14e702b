// Several steps of an inference pass in one op, so that a row of activations is rounded to 8 bits once for
// all that read it, what lies between two products never goes to memory as floats, and threads meet less
// often. The results are the bits of the single ops, one after another.
#pragma once

#include <vector>

#include "ops/norm.h"
#include "ops/quantized_matrix.h"

namespace sluice {

// norm.out = RmsNorm(norm.x), then y = QuantizedMatMul(norm.out, w) for each product.
struct RmsNormMatMulsArgs {
  struct Product {
    QuantizedMatrix w;  // One matrix [out, size], kQ8 or kQ4
    TensorView y;       // [rows, out], overwritten
  };
  RmsNormArgs norm;
  std::vector<Product> products;
};

// The two products of a feed-forward layer with SwiGLU in between (ops/swiglu.h), in kQ8 or kQ4.
struct FeedForwardMatrices {
  QuantizedMatrix gate_up;  // [experts, 2 · size, hidden]: gate, then up; size is a multiple of 32
  QuantizedMatrix down;     // [experts, hidden, size]
};

// Experts on the tokens routed to them, and the shared expert on all:
//   outputs[r]    = Down_e(SwiGlu(GateUp_e(x[t])))   for r = token_row[t, slot], offsets[e] <= r < offsets[e
//   + 1] shared_out[t] = Down(SwiGlu(GateUp(x[t])))
struct QuantizedFeedForwardArgs {
  TensorView x;                 // [tokens, hidden]
  FeedForwardMatrices experts;  // One for each expert
  FeedForwardMatrices shared;   // One, or absent
  TensorView offsets;           // i32 [experts + 1], ascending, offsets[0] = 0
  TensorView token_row;         // i32 [tokens, K]: the row of each slot, -1 where unserved (ops/dispatch.h)
  TensorView outputs;           // [rows, hidden]; rows at and after offsets[experts] are left untouched
  TensorView shared_out;        // [tokens, hidden], overwritten; absent where `shared` is
};

}  // namespace sluice
