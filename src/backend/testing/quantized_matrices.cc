#include "backend/testing/quantized_matrices.h"

#include "base/random.h"
#include "ops/quantize.h"

namespace sluice {

Buffer RandomWeights(int64_t rows, int64_t in, uint64_t seed) {
  Buffer weights(DType::kF32, {rows, in});
  Random random(seed);
  for (int64_t i = 0; i < rows * in; ++i)
    weights.view().data<float>()[i] = static_cast<float>(random.Normal());
  return weights;
}

std::shared_ptr<const QuantizedMatrixBuffer> RandomMatrix(WeightFormat format, int64_t experts, int64_t out,
                                                          int64_t in) {
  const Buffer weights = RandomWeights(experts * out, in, static_cast<uint64_t>(out * 1000 + in));
  for (int64_t r = 0; r < experts * out; r += 2) {
    for (int64_t k = 0; k < in; ++k) weights.view().row<float>(r)[k] = r % 4 == 0 ? 3.0f : -3.0f;
    if (format == WeightFormat::kQ4) weights.view().row<float>(r)[0] = -20.0f;
  }
  const StoredMatrixBuffer stored(format, experts * out, in);
  QuantizeRows(format, weights, {}, stored.view(), "weights");
  auto matrix = std::make_shared<QuantizedMatrixBuffer>(format, experts, out, in);
  matrix->Pack(stored.view());
  return matrix;
}

}  // namespace sluice
