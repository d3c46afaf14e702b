#include "train/router_balance.h"

#include <numeric>
#include <vector>

#include "tensor/host.h"

namespace sluice {

double HistogramQuantile(const int32_t* counts, int64_t num_bins, double quantile) {
  constexpr double kLow = -2;
  const double width = 4.0 / static_cast<double>(num_bins);
  const auto total = static_cast<double>(std::accumulate(counts, counts + num_bins, int64_t{0}));
  SLUICE_CHECK(total > 0);
  const double target = quantile * total;
  double below = 0;
  for (int64_t bin = 0; bin < num_bins; ++bin) {
    const auto count = static_cast<double>(counts[bin]);
    if (count > 0 && below + count >= target) {
      return kLow + width * (static_cast<double>(bin) + (target - below) / count);
    }
    below += count;
  }
  return kLow + width * static_cast<double>(num_bins);
}

RouterBalance::RouterBalance(const Model& model)
    : model_(model),
      counts_(DType::kI32, {model.config().num_layers, model.config().moe.num_experts, kBins}) {}

void RouterBalance::Count(int64_t layer, const TensorView& probs) {
  const ModelWeights weights = model_.table().Bind(model_.parameters());
  model_.ops().RouterHistogram({probs, weights.layers[static_cast<size_t>(layer)].router_bias,
                                model_.config().moe.experts_per_token, counts_.view().At(layer)});
}

void RouterBalance::Count(const PassSaved& saved) {
  for (size_t layer = 0; layer < saved.moe.size(); ++layer)
    Count(static_cast<int64_t>(layer), saved.moe[layer].probs);
}

void RouterBalance::Update(double smoothing) {
  const ModelConfig& config = model_.config();
  const int64_t experts = config.moe.num_experts;
  const double quantile =
      1 - static_cast<double>(config.moe.experts_per_token) / static_cast<double>(experts);
  ModelWeights weights = model_.table().Bind(model_.parameters());
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const TensorView counts = counts_.view().At(layer);
    std::vector<double> target(static_cast<size_t>(experts));
    for (int64_t e = 0; e < experts; ++e) {
      target[static_cast<size_t>(e)] = -HistogramQuantile(counts.row<int32_t>(e), kBins, quantile);
    }
    const double mean = std::accumulate(target.begin(), target.end(), 0.0) / static_cast<double>(experts);
    const TensorView bias = weights.layers[static_cast<size_t>(layer)].router_bias;
    for (int64_t e = 0; e < experts; ++e) {
      const double old = LoadElement(bias, e);
      StoreElement(bias, e, old + smoothing * (target[static_cast<size_t>(e)] - mean - old));
    }
  }
  counts_.view().Zero();
}

}  // namespace sluice
