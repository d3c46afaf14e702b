// One optimiser step over the whole parameter buffer: gradient clipping, Muon for hidden matrices,
// AdamW for the rest. Gates take AdamW too, at a rate of their own: a gate whose scores stop being
// positive anywhere has no gradient to come back by, so its steps are kept small.
#pragma once

#include "model/model.h"
#include "train/schedule.h"

namespace sluice {

class Optimizer {
 public:
  // Throws InputError for a name in config.frozen that no parameter has.
  Optimizer(const Model& model, const OptimizerConfig& config);

  // Applies `gradient` (scaled in place when its norm exceeds the clip) and returns its norm before
  // clipping. Step numbers start at 1. gate_only: every other parameter stays as it is.
  double Step(const TensorView& gradient, int64_t step, double lr_factor, bool gate_only);

  // The optimiser's state, for checkpoints: [parameters] each. v is used by AdamW alone.
  const TensorView& m() const { return m_.view(); }
  const TensorView& v() const { return v_.view(); }

 private:
  bool IsFrozen(const ParameterInfo& parameter) const;

  const Model& model_;
  OptimizerConfig config_;
  Buffer m_;
  Buffer v_;
};

}  // namespace sluice
