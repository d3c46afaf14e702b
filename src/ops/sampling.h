// Choosing the next token from logits.
#pragma once

#include "tensor/tensor.h"

namespace sluice {

// temperature = 0: the largest logit, ties to the lower id. Otherwise p = softmax(logits / temperature),
// tokens ordered by falling logit, ties to the lower id, and cut one after the other to
//   top_k  the top_k first ones; 0: all
//   top_p  of these the fewest first ones whose share of their mass reaches top_p
//   min_p  of these the ones with p >= min_p · p of the first one; 0: all
// What is left is renormalised, and `uniform` in [0, 1) picks by the cumulative sum. The first token is
// always kept.
// Throws InputError for a logit that is NaN or +inf, and if all are -inf.
struct SampleArgs {
  TensorView logits;  // [vocab]
  double temperature = 0;
  int64_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  double uniform = 0;
  int32_t* token = nullptr;
};

}  // namespace sluice
