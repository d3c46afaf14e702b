#include "model/expert_load.h"

#include "base/check.h"

namespace sluice {

ExpertLoad::ExpertLoad(int64_t num_layers, int64_t num_experts)
    : num_layers_(num_layers),
      num_experts_(num_experts),
      counts_(static_cast<size_t>(num_layers * num_experts)) {}

void ExpertLoad::Count(int64_t layer, const TensorView& experts) {
  SLUICE_CHECK_LT(layer, num_layers_);
  int64_t* counts = counts_.data() + layer * num_experts_;
  for (int64_t t = 0; t < experts.dim(0); ++t) {
    const int32_t* slots = experts.row<int32_t>(t);
    for (int64_t slot = 0; slot < experts.dim(1); ++slot)
      if (slots[slot] >= 0) ++counts[slots[slot]];
  }
}

std::span<const int64_t> ExpertLoad::Layer(int64_t layer) const {
  SLUICE_CHECK_LT(layer, num_layers_);
  return {counts_.data() + layer * num_experts_, static_cast<size_t>(num_experts_)};
}

}  // namespace sluice
