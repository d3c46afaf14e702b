// Centres and radii of the blocks that guaranteed attention bounds (ops/guaranteed_attention.h).
#include <algorithm>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/row_norm.h"
#include "base/threads.h"
#include "ops/guaranteed_attention.h"
#include "ops/key_rows_numerics.h"

namespace sluice {

void CpuOps::SummarizeKeys(const SummarizeKeysArgs& args) {
  constexpr int64_t kBlock = KeyBlockView::kBlock;
  const int64_t kv_heads = args.k.dim(1), channels = args.k.dim(2);
  const auto widened = [](float x) {
    return static_cast<float>(x * (1 + GuaranteeNumerics::kMargin) + GuaranteeNumerics::kSmallest);
  };
  ParallelFor(args.end_block - args.first_block, [&](int64_t i) {
    const int64_t block = args.first_block + i;
    std::vector<double> sum(static_cast<size_t>(channels));
    std::vector<float> centre(static_cast<size_t>(channels));
    std::vector<float> decoded(static_cast<size_t>(channels));
    for (int64_t g = 0; g < kv_heads; ++g) {
      const auto key = [&](int64_t j) { return KeyRowValues(args.k, block * kBlock + j, g, decoded.data()); };
      std::fill(sum.begin(), sum.end(), 0.0);
      for (int64_t j = 0; j < kBlock; ++j) {
        const float* k = key(j);
        for (int64_t c = 0; c < channels; ++c) sum[static_cast<size_t>(c)] += k[c];
      }
      uint16_t* bits = args.blocks.Centre(block) + g * channels;
      for (int64_t c = 0; c < channels; ++c) {
        bits[c] =
            BF16FromFloat(static_cast<float>(sum[static_cast<size_t>(c)] / static_cast<double>(kBlock)));
        centre[static_cast<size_t>(c)] = FloatFromBF16(bits[c]);
      }
      float radius = 0, norm = 0;
      for (int64_t j = 0; j < kBlock; ++j) {
        const float* k = key(j);
        RaiseTo(RowNorm<double>(k, centre.data(), channels), radius);
        RaiseTo(RowNorm<double>(k, nullptr, channels), norm);
      }
      args.blocks.Radius<float>(block)[g] = widened(radius);
      args.blocks.Norm<float>(block)[g] = widened(norm);
    }
  });
}

}  // namespace sluice
