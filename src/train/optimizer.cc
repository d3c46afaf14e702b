#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/trace.h"

namespace sluice {

namespace {

bool IsNamed(const ParameterInfo& parameter, const std::string& name) {
  return parameter.name.ends_with("." + name);
}

}  // namespace

Optimizer::Optimizer(const Model& model, const OptimizerConfig& config)
    : model_(model),
      config_(config),
      m_(model.ops().dtype(), {model.table().num_elements()}),
      v_(model.ops().dtype(), {model.table().num_elements()}) {
  const auto& parameters = model.table().parameters();
  for (const std::string& name : config.frozen) {
    const auto is_named = [&](const ParameterInfo& parameter) { return IsNamed(parameter, name); };
    if (std::none_of(parameters.begin(), parameters.end(), is_named))
      throw InputError("optimizer: \"frozen\": no parameter's name ends with \".{}\"", name);
  }
}

bool Optimizer::IsFrozen(const ParameterInfo& parameter) const {
  return std::any_of(config_.frozen.begin(), config_.frozen.end(),
                     [&](const std::string& name) { return IsNamed(parameter, name); });
}

double Optimizer::Step(const TensorView& gradient, int64_t step, double lr_factor, bool gate_only) {
  const TraceSpan span("optimizer");
  Ops& ops = model_.ops();
  const WeightsTable& table = model_.table();
  double squares = 0;
  ops.SumSquares({gradient, &squares});
  const double norm = std::sqrt(squares);
  if (norm > config_.clip) ops.Scale({gradient, config_.clip / norm});

  for (const ParameterInfo& parameter : table.parameters()) {
    if (parameter.kind == ParameterKind::kBuffer || IsFrozen(parameter)) continue;
    const bool gate = parameter.kind == ParameterKind::kGate;
    if (gate_only && !gate) continue;
    const TensorView value = table.View(parameter, model_.parameters());
    const TensorView grad = table.View(parameter, gradient);
    const bool matrix = parameter.kind == ParameterKind::kMatrix;
    if (matrix && config_.matrices == "muon") {
      MuonArgs args;
      args.param = value;
      args.grad = grad;
      args.momentum = table.View(parameter, m_);
      args.lr = config_.muon_lr * lr_factor;
      args.mu = config_.momentum;
      args.weight_decay = config_.weight_decay;
      ops.Muon(args);
    } else {
      AdamWArgs args;
      args.param = value;
      args.grad = grad;
      args.m = table.View(parameter, m_);
      args.v = table.View(parameter, v_);
      args.lr = (gate ? config_.gate_lr : config_.adamw_lr) * lr_factor;
      args.beta1 = config_.beta1;
      args.beta2 = config_.beta2;
      args.weight_decay = matrix ? config_.weight_decay : 0;
      args.step = step;
      ops.AdamW(args);
    }
  }
  return norm;
}

}  // namespace sluice
