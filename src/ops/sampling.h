// Choosing the next token from logits.
#pragma once

#include "tensor/tensor.h"

namespace sluice {

// temperature = 0: the largest logit, ties to the lower id. Otherwise softmax(logits / temperature),
// kept to the top_k largest (0: all), then to the smallest set, by falling probability, whose mass
// reaches top_p, renormalised; `uniform` in [0, 1) picks by the cumulative sum in that order.
// NaN logits: InputError.
struct SampleArgs {
  TensorView logits;  // [vocab]
  double temperature = 0;
  int64_t top_k = 0;
  double top_p = 1;
  double uniform = 0;
  int32_t* token = nullptr;
};

}  // namespace sluice
