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

RouterBalance::RouterBalance(const Model& model, const RouterConfig& config)
    : model_(model),
      config_(config),
      margins_(DType::kI32, {model.config().num_layers, model.config().moe.num_experts, kBins}),
      choices_(DType::kI32, {model.config().num_layers, model.config().moe.num_experts}) {}

void RouterBalance::Count(int64_t layer, const TensorView& probs, const TensorView& choices) {
  const ModelWeights weights = model_.table().Bind(model_.parameters());
  if (config_.bias_rule == BiasRule::kQuantile) {
    model_.ops().RouterHistogram({probs, weights.layers[static_cast<size_t>(layer)].router_bias,
                                  model_.config().moe.experts_per_token, margins_.view().At(layer)});
    return;
  }
  int32_t* counts = choices_.view().row<int32_t>(layer);
  for (int64_t i = 0; i < choices.num_elements(); ++i) ++counts[choices.data<int32_t>()[i]];
}

void RouterBalance::Count(const PassSaved& saved) {
  for (size_t layer = 0; layer < saved.moe.size(); ++layer)
    Count(static_cast<int64_t>(layer), saved.moe[layer].probs, saved.moe[layer].choices);
}

std::vector<double> RouterBalance::QuantileMoves(int64_t layer, const TensorView& bias) const {
  const MoeConfig& moe = model_.config().moe;
  const double quantile =
      1 - static_cast<double>(moe.experts_per_token) / static_cast<double>(moe.num_experts);
  const TensorView counts = margins_.view().At(layer);
  std::vector<double> moves;
  for (int64_t e = 0; e < moe.num_experts; ++e) {
    moves.push_back(-HistogramQuantile(counts.row<int32_t>(e), kBins, quantile));
  }
  const double mean = std::accumulate(moves.begin(), moves.end(), 0.0) / static_cast<double>(moves.size());
  for (int64_t e = 0; e < moe.num_experts; ++e) {
    double& move = moves[static_cast<size_t>(e)];
    move = config_.bias_smoothing * (move - mean - LoadElement(bias, e));
  }
  return moves;
}

std::vector<double> RouterBalance::SignMoves(int64_t layer) const {
  const int64_t experts = model_.config().moe.num_experts;
  const int32_t* counts = choices_.view().row<int32_t>(layer);
  const int64_t total = std::accumulate(counts, counts + experts, int64_t{0});
  std::vector<double> moves;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t excess = counts[e] * experts - total;
    moves.push_back(config_.bias_rate * static_cast<double>((excess < 0) - (excess > 0)));
  }
  return moves;
}

void RouterBalance::Update() {
  ModelWeights weights = model_.table().Bind(model_.parameters());
  for (int64_t layer = 0; layer < model_.config().num_layers; ++layer) {
    const TensorView bias = weights.layers[static_cast<size_t>(layer)].router_bias;
    const std::vector<double> moves =
        config_.bias_rule == BiasRule::kQuantile ? QuantileMoves(layer, bias) : SignMoves(layer);
    for (int64_t e = 0; e < bias.dim(0); ++e) {
      StoreElement(bias, e, LoadElement(bias, e) + moves[static_cast<size_t>(e)]);
    }
  }
  margins_.view().Zero();
  choices_.view().Zero();
}

}  // namespace sluice
