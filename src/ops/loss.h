// Cross-entropy of next-token logits.
#pragma once

#include "tensor/tensor.h"

namespace sluice {

// loss[t] = logsumexp(logits[t]) − logits[t, targets[t]], in nats; 0 where targets[t] is -1.
struct CrossEntropyArgs {
  TensorView logits;   // [tokens, vocab]
  TensorView targets;  // i32 [tokens], -1: no loss at this token
  TensorView loss;     // [tokens]
};

// dlogits[t] = weight[t] · (softmax(logits[t]) − onehot(targets[t])); 0 where targets[t] is -1.
struct CrossEntropyGradArgs {
  TensorView logits;
  TensorView targets;
  TensorView weight;   // [tokens]
  TensorView dlogits;  // Overwritten; may be the same memory as logits.
};

}  // namespace sluice
