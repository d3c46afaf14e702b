// Token embedding: out[t] = table[tokens[t]].
#pragma once

#include "tensor/tensor.h"

namespace sluice {

struct EmbeddingArgs {
  TensorView tokens;  // i32 [tokens], each in [0, vocab)
  TensorView table;   // [vocab, hidden]
  TensorView out;     // [tokens, hidden]
};

struct EmbeddingGradArgs {
  TensorView tokens;
  TensorView dout;        // [tokens, hidden]
  TensorView dtable_acc;  // [vocab, hidden], accumulated in token order
};

}  // namespace sluice
