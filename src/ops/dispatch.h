// Dispatch and combine: rows sorted by expert for the grouped products, and back.
#pragma once

#include "tensor/tensor.h"

namespace sluice {

// Sorts the served slots by expert, then by token. row_token and token_row are each other's inverse.
struct PlanDispatchArgs {
  TensorView experts;    // i32 [tokens, K], -1 where unserved
  TensorView offsets;    // i32 [num_experts + 1]: rows of expert e are offsets[e] .. offsets[e + 1]
  TensorView row_token;  // i32 [tokens * K]: the token of each row; -1 past offsets[num_experts]
  TensorView token_row;  // i32 [tokens, K]: the row of each slot, -1 where unserved
};

// rows[r] = x[row_token[r]]; rows without a token are left untouched.
struct DispatchArgs {
  TensorView x;          // [tokens, hidden]
  TensorView row_token;  // i32 [rows]
  TensorView rows;       // [rows, hidden]
};
// dx[t] = Σ_slots drows[token_row[t, slot]]
struct DispatchGradArgs {
  TensorView drows;
  TensorView token_row;
  TensorView dx;  // Overwritten.
};

// out_acc[t] += Σ_slots gates[t, slot] · rows[token_row[t, slot]], slots in order.
struct CombineArgs {
  TensorView rows;       // [rows, hidden]
  TensorView token_row;  // i32 [tokens, K]
  TensorView gates;      // [tokens, K]
  TensorView out_acc;    // [tokens, hidden]
};
struct CombineGradArgs {
  TensorView rows;
  TensorView token_row;
  TensorView row_token;
  TensorView gates;
  TensorView dout;
  TensorView drows;   // Overwritten where a row has a token.
  TensorView dgates;  // [tokens, K], overwritten; 0 where unserved
};

}  // namespace sluice
