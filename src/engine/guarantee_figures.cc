#include "engine/guarantee_figures.h"

#include <fmt/format.h>

#include <algorithm>

namespace sluice {

void GuaranteeFigures::OnGuarantee(int64_t /*layer*/, const GuaranteedAttentionArgs& args) {
  const AttentionSpan& span = args.in.span;
  const float* bound = args.bound.data<float>();
  const int32_t* keys_read = args.keys_read.data<int32_t>();
  const int64_t tokens = args.in.q.dim(0);
  epsilon_ = args.epsilon;
  queries_ += tokens;
  for (int64_t t = 0; t < tokens; ++t) {
    largest_bound_ = std::max(largest_bound_, static_cast<double>(bound[t]));
    sum_bounds_ += bound[t];
    keys_read_ += keys_read[t];
    keys_ += static_cast<double>(span.Position(t) - span.First(t) + 1);
  }
}

std::string GuaranteeFigures::Line() const {
  return fmt::format(
      "guarantee {:g}: attention left unread at most {:.4g}, {:.4g} on average; {:.1f}% of the keys read\n",
      epsilon_, largest_bound_, mean_bound(), 100 * share_read());
}

nlohmann::ordered_json GuaranteeFigures::Json() const {
  return {{"epsilon", epsilon_},
          {"largest_bound", largest_bound_},
          {"mean_bound", mean_bound()},
          {"share_of_keys_read", share_read()}};
}

}  // namespace sluice
