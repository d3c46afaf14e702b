#include "model/linear.h"

#include <algorithm>

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

bool AreInBlocks(std::initializer_list<const MatrixWeights*> matrices) {
  return std::all_of(matrices.begin(), matrices.end(), [](const MatrixWeights* w) {
    return w->quantized.present() && HasBlocks(w->quantized.format) && w->inputs == nullptr;
  });
}

void MultiplyNormed(Ops& ops, const RmsNormArgs& norm, const std::vector<NormedProduct>& products) {
  const bool fused = std::all_of(products.begin(), products.end(),
                                 [](const NormedProduct& product) { return AreInBlocks({&product.w}); });
  if (!fused) {
    ops.RmsNorm(norm);
    for (const auto& [w, y] : products) Multiply(ops, norm.out, w, y);
    return;
  }
  RmsNormMatMulsArgs args;
  args.norm = norm;
  for (const auto& [w, y] : products) args.products.push_back({w.quantized, y});
  ops.RmsNormMatMuls(args);
}

void LookUp(Ops& ops, const TensorView& tokens, const MatrixWeights& table, const TensorView& out) {
  if (table.quantized.present()) return ops.QuantizedEmbedding({tokens, table.quantized, out});
  ops.Embedding({tokens, table.floats, out});
}

}  // namespace sluice
