// Quantile balancing of the router's selection bias: b_i = −quantile_{1−K/E}(p_i − a), a_t the
// (K+1)-th largest of p_t + b, from a histogram of one step's tokens; mean-centred, smoothed, used
// from the next step on. In training a step is a batch, in calibration (eval/calibrate.h) a pass over the
// domain's text.
#pragma once

#include "model/model.h"

namespace sluice {

class RouterBalance {
 public:
  static constexpr int64_t kBins = 2048;

  explicit RouterBalance(const Model& model);

  // Counts what one layer's router said of some tokens, under the model's present bias: probs
  // [tokens, experts].
  void Count(int64_t layer, const TensorView& probs);
  // All layers of a training pass.
  void Count(const PassSaved& saved);
  // Moves every layer's bias by `smoothing` of the way to the counted quantiles, then clears the counts.
  void Update(double smoothing);

 private:
  const Model& model_;
  Buffer counts_;  // i32 [layers, experts, bins]
};

// The value below which a share of `quantile` of the counted values lies, interpolated in its bin;
// bins are equal on [-2, 2). REQUIRES: at least one count.
double HistogramQuantile(const int32_t* counts, int64_t num_bins, double quantile);

}  // namespace sluice
