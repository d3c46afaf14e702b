#include "engine/guarantee_figures.h"

#include <fmt/format.h>

#include <algorithm>

namespace sluice {

void GuaranteeFigures::OnGuarantee(int64_t layer, const GuaranteedAttentionArgs& args) {
  const AttentionSpan& span = args.in.span;
  const float* bound = args.bound.data<float>();
  const int32_t* keys_read = args.keys_read.data<int32_t>();
  const int64_t tokens = args.in.q.dim(0);
  epsilon_ = args.epsilon;
  queries_ += tokens;
  const auto at = static_cast<size_t>(layer);
  layers_.resize(std::max(layers_.size(), at + 1));
  for (int64_t t = 0; t < tokens; ++t) {
    largest_bound_ = std::max(largest_bound_, static_cast<double>(bound[t]));
    sum_bounds_ += bound[t];
    layers_[at].read += keys_read[t];
    layers_[at].all += static_cast<double>(span.Position(t) - span.First(t) + 1);
  }
}

double GuaranteeFigures::share_read() const {
  Keys total;
  for (const Keys& layer : layers_) {
    total.read += layer.read;
    total.all += layer.all;
  }
  return total.share();
}

std::vector<double> GuaranteeFigures::share_read_by_layer() const {
  std::vector<double> shares;
  for (const Keys& layer : layers_) shares.push_back(layer.share());
  return shares;
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
          {"share_of_keys_read", share_read()},
          {"share_by_layer", share_read_by_layer()}};
}

}  // namespace sluice
