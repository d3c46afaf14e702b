#include "model/expert_load.h"

#include "base/check.h"

namespace sluice {

ExpertLoad::ExpertLoad(int64_t num_layers, int64_t num_experts)
    : num_layers_(num_layers),
      num_experts_(num_experts),
      counts_(static_cast<size_t>(num_layers * num_experts)) {}

void ExpertLoad::Count(int64_t layer, const TensorView& offsets) {
  SLUICE_CHECK_LT(layer, num_layers_);
  SLUICE_CHECK_EQ(offsets.dim(0), num_experts_ + 1);
  const int32_t* begin = offsets.data<int32_t>();
  int64_t* counts = counts_.data() + layer * num_experts_;
  for (int64_t expert = 0; expert < num_experts_; ++expert)
    counts[expert] += begin[expert + 1] - begin[expert];
}

std::span<const int64_t> ExpertLoad::Layer(int64_t layer) const {
  SLUICE_CHECK_LT(layer, num_layers_);
  return {counts_.data() + layer * num_experts_, static_cast<size_t>(num_experts_)};
}

}  // namespace sluice
