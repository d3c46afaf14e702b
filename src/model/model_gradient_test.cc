// The whole model's gradient at a tiny size against central differences in float64, for every
// parameter tensor, in dense and in sparse mode. What training treats as constant (selections,
// thresholds, distillation targets) is recorded in one pass and held while parameters are moved; the
// straight-through parts are then the gradient of the surrogate õ.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "backend/reference/reference_ops.h"
#include "model/model.h"
#include "tensor/host.h"

namespace sluice {
namespace {

ModelConfig TinyConfig(bool bias, int64_t shared_size) {
  ModelConfig config;
  config.vocab_size = 19;
  config.hidden_size = 8;
  config.num_layers = 4;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 4;
  config.context_length = 64;
  config.logn_length = 5;
  config.window = 4;
  config.num_sinks = 2;
  config.top_k = 3;
  config.gate = {6, 2, 4, 3, 2, bias};
  config.moe = {4, 2, 5, shared_size};
  return config;
}

// Two packed documents in the first row, one in the second.
struct TinyBatch {
  std::vector<int32_t> tokens, positions, segment_start, targets;
  Buffer weights{DType::kF64, {kTokens}};
  TeacherPass teacher;
  static constexpr int64_t kLength = 20;
  static constexpr int64_t kTokens = 2 * kLength;

  TinyBatch() {
    Random random(5);
    for (int64_t t = 0; t < kTokens; ++t) {
      const int64_t start = t < 6 ? 0 : t < kLength ? 6 : kLength;
      tokens.push_back(static_cast<int32_t>(random.Below(19)));
      targets.push_back(t % 7 == 3 ? -1 : static_cast<int32_t>(random.Below(19)));
      segment_start.push_back(static_cast<int32_t>(start));
      positions.push_back(static_cast<int32_t>(t - start));
      weights.view().data<double>()[t] = (0.5 + random.Uniform()) / kTokens;
    }
  }

  TrainingBatch View() {
    TrainingBatch batch;
    batch.tokens = {TensorView::Of(tokens.data(), {kTokens}), TensorView::Of(positions.data(), {kTokens}),
                    TensorView::Of(segment_start.data(), {kTokens}), kLength};
    batch.targets = TensorView::Of(targets.data(), {kTokens});
    batch.weights = weights;
    batch.teacher = teacher;
    return batch;
  }
};

class ModelGradientTest : public ::testing::Test {
 protected:
  explicit ModelGradientTest(bool bias = true, int64_t shared_size = 3)
      : ops_(std::make_unique<ReferenceOps<double>>()), model_(TinyConfig(bias, shared_size), *ops_) {
    model_.table().Initialize(model_.parameters(), 3);
    // Embeddings and sinks away from their small or zero start, so that every term matters.
    Random random(11);
    for (const ParameterInfo& parameter : model_.table().parameters()) {
      const TensorView view = model_.table().View(parameter, model_.parameters());
      for (int64_t i = 0; i < view.num_elements(); ++i) {
        StoreElement(view, i, LoadElement(view, i) + 0.3 * random.Normal());
      }
    }
    options_.top_k = 3;
    options_.router = {0.3, 0.2, 0.1};
    options_.gate.num_extra = 2;
    options_.gate.num_random = 2;
    options_.gate.temperature = 0.7;
  }

  // Keeps what is constant in the gradient, in memory of its own.
  void RecordConstants() {
    PassSaved saved;
    model_.ForwardLoss(arena_, batch_.View(), options_, saved);
    for (size_t layer = 0; layer < saved.attention.size(); ++layer) {
      const GateSaved& gate =
          saved.gates[static_cast<size_t>(model_.config().GateOf(static_cast<int64_t>(layer)))];
      constants_.push_back({Keep(gate.candidates), Keep(gate.threshold), Keep(saved.attention[layer].target),
                            Keep(saved.attention[layer].mass)});
    }
    options_.surrogate = &constants_;
  }

  double Loss() {
    PassSaved saved;
    return model_.ForwardLoss(arena_, batch_.View(), options_, saved).total;
  }

  // Checks every element of every parameter whose name `wanted` accepts.
  void CheckAgainstDifferences(const std::function<bool(const std::string&)>& wanted) {
    Buffer gradient(DType::kF64, {model_.table().num_elements()});
    PassSaved saved;
    model_.ForwardLoss(arena_, batch_.View(), options_, saved);
    model_.Backward(arena_, batch_.View(), options_, saved, gradient);
    for (const ParameterInfo& parameter : model_.table().parameters()) {
      if (parameter.kind == ParameterKind::kBuffer || !wanted(parameter.name)) continue;
      const TensorView value = model_.table().View(parameter, model_.parameters());
      const TensorView analytic = model_.table().View(parameter, gradient);
      double difference = 0, size = 0;
      for (int64_t i = 0; i < value.num_elements(); ++i) {
        constexpr double kStep = 1e-6;  // Short, so that no gate's ReLU changes sides on the way.
        const double center = LoadElement(value, i);
        StoreElement(value, i, center + kStep);
        const double above = Loss();
        StoreElement(value, i, center - kStep);
        const double below = Loss();
        StoreElement(value, i, center);
        const double numeric = (above - below) / (2 * kStep);
        const double error = numeric - LoadElement(analytic, i);
        difference += error * error;
        size += numeric * numeric;
        EXPECT_NEAR(LoadElement(analytic, i), numeric, 2e-9 + 1e-5 * std::abs(numeric))
            << parameter.name << " " << i;
      }
      EXPECT_GT(size, 0) << parameter.name << " has no gradient to check";
      EXPECT_LE(std::sqrt(difference), 1e-5 * std::sqrt(size) + 1e-9) << parameter.name;
    }
  }

  TensorView Keep(const TensorView& view) {
    if (!view.present()) return {};
    kept_.emplace_back(view.dtype(), view.shape());
    std::memcpy(kept_.back().view().raw(), view.raw(),
                static_cast<size_t>(view.num_elements()) * SizeOf(view.dtype()));
    return kept_.back().view();
  }

  std::unique_ptr<Ops> ops_;
  Model model_;
  TinyBatch batch_;
  Arena arena_;
  PassOptions options_;
  std::vector<Buffer> kept_;
  std::vector<GateConstants> constants_;
};

class UnbiasedModelGradientTest : public ModelGradientTest {
 protected:
  UnbiasedModelGradientTest() : ModelGradientTest(false) {}
};

class UnsharedModelGradientTest : public ModelGradientTest {
 protected:
  UnsharedModelGradientTest() : ModelGradientTest(true, 0) {}
};

bool IsGate(const std::string& name) {
  return name.find(".gate.") != std::string::npos;
}
bool IsAny(const std::string&) {
  return true;
}

TEST_F(ModelGradientTest, DenseMode) {
  options_.attention = AttentionMode::kDense;
  CheckAgainstDifferences(IsAny);
}

TEST_F(UnbiasedModelGradientTest, DenseMode) {
  options_.attention = AttentionMode::kDense;
  CheckAgainstDifferences([](const std::string& name) { return !IsGate(name); });
}

// As if the model had no gate: its parameters, the bias's weights among them, have no gradient.
TEST_F(ModelGradientTest, DenseModeWithoutItsBias) {
  options_.attention = AttentionMode::kDense;
  const double biased = Loss();
  options_.gate.bias = false;
  EXPECT_NE(Loss(), biased);
  const auto of_gate = [](const std::string& name) { return IsGate(name) || name.ends_with("gate_bias"); };
  CheckAgainstDifferences([&](const std::string& name) { return !of_gate(name); });

  Buffer gradient(DType::kF64, {model_.table().num_elements()});
  PassSaved saved;
  model_.ForwardLoss(arena_, batch_.View(), options_, saved);
  model_.Backward(arena_, batch_.View(), options_, saved, gradient);
  for (const ParameterInfo& parameter : model_.table().parameters()) {
    if (!of_gate(parameter.name)) continue;
    const TensorView view = model_.table().View(parameter, gradient);
    for (int64_t i = 0; i < view.num_elements(); ++i) EXPECT_EQ(LoadElement(view, i), 0) << parameter.name;
  }
}

// The distillation target depends on the trunk but is a constant: the trunk's differences would see it
// move. Without a bias the gates' parameters do not change a dense pass, so theirs are exact.
TEST_F(UnbiasedModelGradientTest, DenseDistillationOfTheGates) {
  options_.attention = AttentionMode::kDense;
  options_.gate.kl_weight = 0.8;
  CheckAgainstDifferences(IsGate);
}

TEST_F(ModelGradientTest, SparseModeStraightThroughWithDistillation) {
  options_.gate.kl_weight = 0.8;
  RecordConstants();
  CheckAgainstDifferences(IsAny);
}

TEST_F(UnbiasedModelGradientTest, SparseModeStraightThroughWithDistillation) {
  options_.gate.kl_weight = 0.8;
  RecordConstants();
  CheckAgainstDifferences(IsAny);
}

TEST_F(UnbiasedModelGradientTest, SparseModeStraightThroughAlone) {
  RecordConstants();
  CheckAgainstDifferences(IsAny);
}

TEST_F(UnsharedModelGradientTest, DenseMode) {
  options_.attention = AttentionMode::kDense;
  CheckAgainstDifferences(IsAny);
}

TEST_F(ModelGradientTest, WithCapacityAndOverflow) {
  options_.attention = AttentionMode::kDense;
  options_.capacity = {CapacityRule::kDynamic, 0.5, 4, 1.0};
  CheckAgainstDifferences(IsAny);
}

TEST_F(ModelGradientTest, WithATeacher) {
  Random random(17);
  Buffer normed(DType::kF64, {TinyBatch::kTokens, 5}), embedding(DType::kF64, {19, 5});
  for (Buffer* buffer : {&normed, &embedding}) {
    for (int64_t i = 0; i < buffer->view().num_elements(); ++i) StoreElement(*buffer, i, random.Normal());
  }
  batch_.teacher = {normed, embedding, 0.6};
  options_.attention = AttentionMode::kDense;
  const double with_teacher = Loss();
  CheckAgainstDifferences(IsAny);
  batch_.teacher = {};
  EXPECT_NE(Loss(), with_teacher);
}

// What the backward pass computes again is what the forward pass had, to the bit.
TEST_F(ModelGradientTest, RecomputedExpertsGiveTheSameGradient) {
  options_.gate.kl_weight = 0.8;
  options_.capacity = {CapacityRule::kDynamic, 0.5, 4, 1.0};
  const auto gradient_of = [&](bool recompute) {
    options_.recompute_experts = recompute;
    std::vector<double> gradient(static_cast<size_t>(model_.table().num_elements()));
    const TensorView view = TensorView::Of(gradient.data(), {std::ssize(gradient)});
    Arena arena;
    PassSaved saved;
    model_.ForwardLoss(arena, batch_.View(), options_, saved);
    model_.Backward(arena, batch_.View(), options_, saved, view);
    return gradient;
  };
  EXPECT_THAT(gradient_of(true), ::testing::ElementsAreArray(gradient_of(false)));
}

}  // namespace
}  // namespace sluice
