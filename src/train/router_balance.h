// What moves the router's selection bias from one step to the next:
//   quantile  b_i towards −quantile_{1−K/E}(p_i − a), a_t the (K+1)-th largest of p_t + b, from a histogram
//   of
//             the step's tokens; mean-centred, smoothed
//   sign      b_i by a fixed rate, up for an expert with fewer choices than the mean, down for one with more
//             (DeepSeek-V3, https://arxiv.org/abs/2412.19437), for comparison
// In training a step is a batch, in calibration (eval/calibrate.h) a pass over the domain's text.
#pragma once

#include <vector>

#include "model/model.h"
#include "train/train_config.h"

namespace sluice {

class RouterBalance {
 public:
  static constexpr int64_t kBins = 2048;

  // REQUIRES: config.bias_rule is not kNone when Count or Update is called.
  RouterBalance(const Model& model, const RouterConfig& config);

  // Counts what one layer's router said of some tokens, under the model's present bias: probs
  // [tokens, experts], choices [tokens, K].
  void Count(int64_t layer, const TensorView& probs, const TensorView& choices);
  // All layers of a training pass.
  void Count(const PassSaved& saved);
  // Moves every layer's bias by what was counted, then clears the counts.
  void Update();

 private:
  // How far to move each expert of a layer.
  std::vector<double> QuantileMoves(int64_t layer, const TensorView& bias) const;
  std::vector<double> SignMoves(int64_t layer) const;

  const Model& model_;
  const RouterConfig config_;
  Buffer margins_;  // i32 [layers, experts, bins]; quantile
  Buffer choices_;  // i32 [layers, experts]; sign
};

// The value below which a share of `quantile` of the counted values lies, interpolated in its bin;
// bins are equal on [-2, 2). REQUIRES: at least one count.
double HistogramQuantile(const int32_t* counts, int64_t num_bins, double quantile);

}  // namespace sluice
