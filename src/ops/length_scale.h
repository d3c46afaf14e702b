// Log-length scaling of queries: attention over n keys flattens as n grows unless logits grow with log n
// (Chiang and Cholak, 2022; "logn" scaling in Qwen). In place, for every token's row,
//   x[t] *= max(1, ln(position[t] + 1) / ln(length))
// so that up to `length` keys nothing changes. Linear in x: applied to dout it gives dx.
#pragma once

#include "tensor/tensor.h"

namespace sluice {

struct LengthScaleArgs {
  TensorView x;          // [tokens, n]
  TensorView positions;  // i32 [tokens], >= 0
  int64_t length = 2;    // >= 2
};

}  // namespace sluice
