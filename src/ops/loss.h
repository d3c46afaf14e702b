// Cross-entropy of next-token logits, to the next token or, in part, to what a teacher expects.
#pragma once

#include "tensor/tensor.h"

namespace sluice {

// A teacher's part in the distribution that logits are measured against,
//   q[t] = (1 − share) · onehot(targets[t]) + share · softmax(logits[t])
// Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015), at temperature 1.
struct TeacherTargets {
  TensorView logits;  // [tokens, vocab], the teacher's; absent: q is the next token alone
  double share = 0;   // In [0, 1].
};

// loss[t] = Σⱼ q[t, j] · (logsumexp(logits[t]) − logits[t, j]), in nats; 0 where targets[t] is -1.
struct CrossEntropyArgs {
  TensorView logits;   // [tokens, vocab]
  TensorView targets;  // i32 [tokens], -1: no loss at this token, whatever the teacher says
  TensorView loss;     // [tokens]
  TeacherTargets teacher = {};
};

// dlogits[t] = weight[t] · (softmax(logits[t]) − q[t]); 0 where targets[t] is -1.
struct CrossEntropyGradArgs {
  TensorView logits;
  TensorView targets;
  TensorView weight;   // [tokens]
  TensorView dlogits;  // Overwritten; may be the same memory as logits.
  TeacherTargets teacher = {};
};

}  // namespace sluice
