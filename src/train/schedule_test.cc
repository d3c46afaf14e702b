// Stages follow each other, coefficients move from begin to end, and a plan depends on nothing but the
// config and the step.
#include "train/schedule.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TrainConfig TwoStages() {
  TrainConfig config;
  StageConfig dense;
  dense.name = "dense";
  dense.steps = 10;
  StageConfig sparse;
  sparse.name = "sparse";
  sparse.steps = 90;
  sparse.attention = AttentionMode::kSparse;
  sparse.top_k_begin = 512;
  sparse.top_k_end = 128;
  sparse.temperature_begin = 1;
  sparse.temperature_end = 0.2;
  config.stages = {dense, sparse};
  config.optimizer.warmup_steps = 4;
  config.optimizer.decay_share = 0.5;
  config.optimizer.final_lr = 0.1;
  config.router.capacity.rule = CapacityRule::kDynamic;
  config.router.capacity_until = 0.8;
  config.router.bias_until = 0.9;
  return config;
}

TEST(ScheduleTest, StagesFollowEachOther) {
  const TrainConfig config = TwoStages();
  EXPECT_EQ(config.total_steps(), 100);
  EXPECT_EQ(PlanStep(config, 9).stage->name, "dense");
  EXPECT_EQ(PlanStep(config, 10).stage->name, "sparse");
  EXPECT_EQ(PlanStep(config, 10).options.top_k, 512);
  EXPECT_EQ(PlanStep(config, 99).options.top_k, 128);
  EXPECT_DOUBLE_EQ(PlanStep(config, 99).options.gate.temperature, 0.2);
}

TEST(ScheduleTest, RateWarmsUpHoldsAndFalls) {
  const TrainConfig config = TwoStages();
  EXPECT_DOUBLE_EQ(PlanStep(config, 0).lr_factor, 0.2);
  EXPECT_DOUBLE_EQ(PlanStep(config, 20).lr_factor, 1);
  EXPECT_DOUBLE_EQ(PlanStep(config, 75).lr_factor, 0.55);
  EXPECT_NEAR(PlanStep(config, 99).lr_factor, 0.118, 1e-12);
}

TEST(ScheduleTest, CapacityAndBiasEndBeforeTheRun) {
  const TrainConfig config = TwoStages();
  EXPECT_TRUE(PlanStep(config, 79).options.capacity.limits());
  EXPECT_FALSE(PlanStep(config, 80).options.capacity.limits());
  EXPECT_TRUE(PlanStep(config, 89).update_bias);
  EXPECT_FALSE(PlanStep(config, 90).update_bias);
}

TEST(ScheduleTest, DenseShareOfASparseStage) {
  TrainConfig config = TwoStages();
  config.stages[1].dense_share = 0.25;
  config.stages[1].steps = 4000;
  int dense = 0;
  for (int64_t step = 10; step < 4010; ++step) {
    dense += PlanStep(config, step).options.attention == AttentionMode::kDense ? 1 : 0;
  }
  EXPECT_NEAR(dense / 4000.0, 0.25, 0.03);
  config.stages[1].sequence_length = 4096;
  config.stages[1].dense_sequence_length = 512;
  for (int64_t step = 10; step < 40; ++step) {
    const StepPlan plan = PlanStep(config, step);
    EXPECT_EQ(plan.sequence_length, plan.options.attention == AttentionMode::kDense ? 512 : 4096);
  }
  EXPECT_EQ(PlanStep(config, 9).sequence_length, config.stages[0].sequence_length);
  EXPECT_EQ(PlanStep(config, 77).options.gate.random_seed, PlanStep(config, 77).options.gate.random_seed);
}

TEST(ScheduleTest, GatelessShareOfTheDenseSteps) {
  TrainConfig config = TwoStages();
  config.stages[1].dense_share = 0.5;
  config.stages[1].gateless_share = 0.25;
  config.stages[1].gate_kl_weight = 0.5;
  config.stages[1].steps = 4000;
  int dense = 0, gateless = 0;
  for (int64_t step = 10; step < 4010; ++step) {
    const PassOptions options = PlanStep(config, step).options;
    dense += options.attention == AttentionMode::kDense ? 1 : 0;
    gateless += options.gate.bias ? 0 : 1;
    EXPECT_TRUE(options.gate.bias || options.attention == AttentionMode::kDense);
    EXPECT_EQ(options.gate.kl_weight, options.gate.bias ? 0.5 : 0);
  }
  EXPECT_NEAR(gateless / static_cast<double>(dense), 0.25, 0.03);
}

}  // namespace
}  // namespace sluice
