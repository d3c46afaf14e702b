#include "model/linear.h"

namespace sluice {

void Multiply(Ops& ops, const TensorView& x, const MatrixWeights& w, const TensorView& y) {
  if (w.inputs != nullptr) w.inputs->Add(x);
  if (w.quantized.present()) return ops.QuantizedMatMul({x, w.quantized, y});
  ops.MatMul({x, w.floats, y});
}

void MultiplyGrouped(Ops& ops, const TensorView& x, const MatrixWeights& w, const TensorView& offsets,
                     const TensorView& y) {
  if (w.inputs != nullptr) w.inputs->Add(x, offsets);
  if (w.quantized.present()) return ops.GroupedQuantizedMatMul({x, w.quantized, offsets, y});
  ops.GroupedMatMul({x, w.floats, offsets, y});
}

void LookUp(Ops& ops, const TensorView& tokens, const MatrixWeights& table, const TensorView& out) {
  if (table.quantized.present()) return ops.QuantizedEmbedding({tokens, table.quantized, out});
  ops.Embedding({tokens, table.floats, out});
}

}  // namespace sluice
