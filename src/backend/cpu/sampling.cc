// Choosing the next token. The softmax is in float64; candidates are ordered by falling logit, ties to
// the lower id, so that equal inputs pick the same token everywhere.
#include "ops/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "base/error.h"

namespace sluice {

void CpuOps::Sample(const SampleArgs& args) {
  const int64_t vocab = args.logits.dim(0);
  const float* logits = args.logits.data<float>();
  for (int64_t i = 0; i < vocab; ++i) {
    if (std::isnan(logits[i])) {
      throw InputError("the logit of token {} is NaN; the model's weights or its input are damaged", i);
    }
  }
  if (args.temperature == 0) {
    *args.token = static_cast<int32_t>(std::max_element(logits, logits + vocab) - logits);
    return;
  }
  std::vector<int32_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  const bool cuts = args.top_k > 0 && args.top_k < vocab;
  const auto kept = order.begin() + (cuts ? args.top_k : vocab);
  std::partial_sort(order.begin(), kept, order.end(), before);
  order.erase(kept, order.end());

  std::vector<double> mass(order.size());
  double total = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const double gap = static_cast<double>(logits[order[i]]) - logits[order[0]];
    mass[i] = order[i] == order[0] ? 1.0 : std::exp(gap / args.temperature);
    total += mass[i];
  }
  size_t count = 0;
  double sum = 0;
  while (count < order.size() && (count == 0 || sum < args.top_p * total)) sum += mass[count++];
  const double goal = args.uniform * sum;
  double reached = 0;
  size_t pick = 0;
  for (; pick + 1 < count; ++pick) {
    reached += mass[pick];
    if (reached > goal) break;
  }
  *args.token = order[pick];
}

}  // namespace sluice
