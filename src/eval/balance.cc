#include "eval/balance.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace sluice {

Balance BalanceOf(std::span<const int64_t> counts) {
  Balance balance;
  const auto total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  if (total == 0) return balance;
  std::vector<int64_t> sorted(counts.begin(), counts.end());
  std::sort(sorted.begin(), sorted.end());
  const auto experts = static_cast<double>(sorted.size());
  const double mean = total / experts;
  double squares = 0, ranked = 0, entropy = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    const auto count = static_cast<double>(sorted[i]);
    const double share = count / total;
    squares += (count - mean) * (count - mean);
    // Σ_e Σ_f |n_e − n_f| = 2 Σ_i (2i + 1 − E) n_i over ascending n.
    ranked += (2 * static_cast<double>(i) + 1 - experts) * count;
    if (share > 0) entropy -= share * std::log(share);
  }
  balance.utilisation = mean / static_cast<double>(sorted.back());
  balance.cv = std::sqrt(squares / experts) / mean;
  balance.gini = ranked / (experts * total);
  balance.effective = std::exp(entropy) / experts;
  balance.min_to_mean = static_cast<double>(sorted.front()) / mean;
  return balance;
}

Balance MeanOf(const std::vector<Balance>& layers) {
  SLUICE_CHECK(!layers.empty());
  Balance mean{0, 0, 0, 0, 0};
  const auto count = static_cast<double>(layers.size());
  for (const Balance& layer : layers) {
    mean.utilisation += layer.utilisation / count;
    mean.cv += layer.cv / count;
    mean.gini += layer.gini / count;
    mean.effective += layer.effective / count;
    mean.min_to_mean += layer.min_to_mean / count;
  }
  return mean;
}

std::vector<Balance> BalanceByLayer(const ExpertLoad& load) {
  std::vector<Balance> layers;
  for (int64_t layer = 0; layer < load.num_layers(); ++layer) layers.push_back(BalanceOf(load.Layer(layer)));
  return layers;
}

int64_t WorstLayer(const std::vector<Balance>& layers) {
  return std::min_element(layers.begin(), layers.end(),
                          [](const Balance& a, const Balance& b) { return a.utilisation < b.utilisation; }) -
         layers.begin();
}

}  // namespace sluice
