// Choosing the next token; the rule is in ops/sampling.h. The order and the sums are in float64.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"
#include "base/error.h"

namespace sluice {

namespace {
constexpr double kInfinity = std::numeric_limits<double>::infinity();
}  // namespace

template <class Real>
void ReferenceOps<Real>::Sample(const SampleArgs& args) {
  const int64_t vocab = args.logits.dim(0);
  std::vector<double> logits(vocab);
  for (int64_t i = 0; i < vocab; ++i) {
    logits[i] = ValueOf(args.logits.data<Real>()[i]);
    if (std::isnan(logits[i]) || logits[i] == kInfinity)
      throw InputError("sampling: the logit of token {} is {}", i, logits[i]);
  }
  std::vector<int32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  const double largest = logits[order[0]];
  if (largest == -kInfinity) throw InputError("sampling: the logits of all {} tokens are -inf", vocab);
  if (args.temperature == 0) {
    *args.token = order[0];
    return;
  }
  if (args.top_k > 0 && args.top_k < vocab) order.resize(args.top_k);

  std::vector<double> weights;  // p over the largest p.
  for (int32_t token : order) weights.push_back(std::exp((logits[token] - largest) / args.temperature));
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double mass = 0;
  size_t num_kept = 0;
  while (num_kept < weights.size() && (num_kept == 0 || mass < args.top_p * total))
    mass += weights[num_kept++];
  while (weights[num_kept - 1] < args.min_p) --num_kept;
  const double kept = std::accumulate(weights.begin(), weights.begin() + num_kept, 0.0);
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
