// Choosing the next token; the rule is in ops/sampling.h. The order and the sums are in float64.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"
#include "base/error.h"

namespace sluice {

template <class Real>
void ReferenceOps<Real>::Sample(const SampleArgs& args) {
  const int64_t vocab = args.logits.dim(0);
  std::vector<double> logits(vocab);
  for (int64_t i = 0; i < vocab; ++i) {
    logits[i] = ValueOf(args.logits.data<Real>()[i]);
    if (std::isnan(logits[i])) throw InputError("sampling: the logit of token {} is not a number", i);
  }
  std::vector<int32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (args.temperature == 0) {
    *args.token = order[0];
    return;
  }
  if (args.top_k > 0 && args.top_k < vocab) order.resize(args.top_k);

  const double largest = logits[order[0]];
  std::vector<double> weights;
  for (int32_t token : order) {
    weights.push_back(logits[token] == largest ? 1 : std::exp((logits[token] - largest) / args.temperature));
  }
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double kept = 0;
  size_t num_kept = 0;
  while (num_kept < weights.size() && (num_kept == 0 || kept < args.top_p * total))
    kept += weights[num_kept++];
  const double point = args.uniform * kept;
  double sum = 0;
  size_t choice = 0;
  for (; choice + 1 < num_kept; ++choice) {
    sum += weights[choice];
    if (sum > point) break;
  }
  *args.token = order[choice];
}

template void ReferenceOps<double>::Sample(const SampleArgs&);
template void ReferenceOps<Tracked>::Sample(const SampleArgs&);

}  // namespace sluice
