#include "train/schedule.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"

namespace sluice {

namespace {

// Streams of random numbers that belong to a step; train/documents.h uses others.
constexpr uint64_t kDenseStream = 0x64656e7365ull;
constexpr uint64_t kGatelessStream = 0x67617465ull;
constexpr uint64_t kCandidateStream = 0x63616e64ull;

double LearningRateFactor(const TrainConfig& config, int64_t step) {
  const OptimizerConfig& optimizer = config.optimizer;
  const auto total = static_cast<double>(config.total_steps());
  const double warmup =
      std::min(1.0, static_cast<double>(step + 1) / static_cast<double>(optimizer.warmup_steps + 1));
  const double decay_begin = total * (1 - optimizer.decay_share);
  const double decayed = std::max(0.0, static_cast<double>(step) - decay_begin) / (total - decay_begin);
  return warmup * (1 - decayed * (1 - optimizer.final_lr));
}

}  // namespace

StepPlan PlanStep(const TrainConfig& config, int64_t step) {
  StepPlan plan;
  plan.step = step;
  int64_t stage_begin = 0;
  while (step >= stage_begin + config.stages[static_cast<size_t>(plan.stage_idx)].steps) {
    stage_begin += config.stages[static_cast<size_t>(plan.stage_idx)].steps;
    ++plan.stage_idx;
  }
  const StageConfig& stage = config.stages[static_cast<size_t>(plan.stage_idx)];
  plan.stage = &stage;
  const double along =
      static_cast<double>(step - stage_begin) / static_cast<double>(std::max<int64_t>(stage.steps - 1, 1));
  const auto between = [along](double begin, double end) { return begin + (end - begin) * along; };
  const auto seed = static_cast<uint64_t>(config.seed);

  PassOptions& options = plan.options;
  options.attention = stage.attention;
  options.gate.kl_weight = stage.gate_kl_weight;
  plan.sequence_length = stage.sequence_length;
  if (stage.attention == AttentionMode::kSparse &&
      Random(seed ^ kDenseStream, static_cast<uint64_t>(step)).Uniform() < stage.dense_share) {
    options.attention = AttentionMode::kDense;
    plan.sequence_length = stage.dense_sequence_length;
    if (Random(seed ^ kGatelessStream, static_cast<uint64_t>(step)).Uniform() < stage.gateless_share) {
      options.gate.bias = false;
      options.gate.kl_weight = 0;
    }
  }
  options.top_k =
      std::llround(between(static_cast<double>(stage.top_k_begin), static_cast<double>(stage.top_k_end)));
  options.gate.kl_mass_floor = config.gate_kl_mass_floor;
  options.gate.straight_through = stage.straight_through;
  options.gate.temperature = between(stage.temperature_begin, stage.temperature_end);
  options.gate.num_extra = stage.num_extra;
  options.gate.num_random = stage.num_random;
  options.gate.random_seed = Random(seed ^ kCandidateStream, static_cast<uint64_t>(step)).NextU64();
  const double share = static_cast<double>(step) / static_cast<double>(config.total_steps());
  options.capacity = config.router.capacity;
  if (share >= config.router.capacity_until) options.capacity.rule = CapacityRule::kNone;
  options.router = config.router.loss;
  options.recompute_experts = stage.recompute_experts;
  plan.lr_factor = LearningRateFactor(config, step) * stage.lr_scale;
  plan.update_bias = config.router.bias_rule != BiasRule::kNone && share < config.router.bias_until;
  return plan;
}

}  // namespace sluice
