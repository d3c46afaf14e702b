// What a step of training does, as a pure function of the config and the step's number: the stage it
// is in, the options of its passes, its learning rate. Nothing here has state, so a resumed run
// continues exactly.
#pragma once

#include "train/train_config.h"

namespace sluice {

struct StepPlan {
  int64_t step = 0;
  int64_t stage_idx = 0;
  const StageConfig* stage = nullptr;
  int64_t sequence_length = 0;  // Tokens per row: of a dense step in a sparse stage its own.
  PassOptions options;          // Attention mode, k, gate and router coefficients of this step.
  double lr_factor = 1;         // Times the optimiser's peak rates.
  bool update_bias = true;      // Quantile balancing is still on.
};

// REQUIRES: 0 <= step < config.total_steps().
StepPlan PlanStep(const TrainConfig& config, int64_t step);

}  // namespace sluice
