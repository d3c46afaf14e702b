// How many rows each expert has served, layer by layer: the live view of routing. Fed from the offsets that
// dispatch has anyway, so that a pass costs an addition per expert and layer: with nano's six layers of eight
// experts 0.04 of the 1,000 microseconds that decoding a token takes on two threads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace sluice {

class ExpertLoad {
 public:
  ExpertLoad(int64_t num_layers, int64_t num_experts);

  // offsets: i32 [num_experts + 1], as of PlanDispatchArgs (ops/dispatch.h).
  void Count(int64_t layer, const TensorView& offsets);

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
