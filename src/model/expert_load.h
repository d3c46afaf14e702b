// How many rows each expert has served, layer by layer: the live view of routing. A pass costs an addition
// per token, slot and layer, 12 for a token that nano decodes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace sluice {

class ExpertLoad {
 public:
  ExpertLoad(int64_t num_layers, int64_t num_experts);

  // experts: i32 [tokens, K], as of RouterArgs (ops/router.h).
  void Count(int64_t layer, const TensorView& experts);

  int64_t num_layers() const { return num_layers_; }
  int64_t num_experts() const { return num_experts_; }
  // [num_experts]
  std::span<const int64_t> Layer(int64_t layer) const;

 private:
  int64_t num_layers_;
  int64_t num_experts_;
  std::vector<int64_t> counts_;  // [layers, experts]
};

}  // namespace sluice
