#include "eval/pass_figures.h"

#include <algorithm>

#include "model/flops.h"
#include "ops/gate_tree_numerics.h"

namespace sluice {

namespace {

double Utilisation(const LayerFigures& layer) {
  double sum = 0;
  int64_t largest = 0;
  for (const int64_t load : layer.expert_load) {
    sum += static_cast<double>(load);
    largest = std::max(largest, load);
  }
  if (largest == 0) return 1;
  return sum / static_cast<double>(layer.expert_load.size()) / static_cast<double>(largest);
}

}  // namespace

PassFigures::PassFigures(const ModelConfig& config)
    : config_(config), layers_(static_cast<size_t>(config.num_layers)) {
  for (LayerFigures& layer : layers_) layer.expert_load.resize(static_cast<size_t>(config.moe.num_experts));
}

void PassFigures::OnAttention(const AttentionStep& step) {
  LayerFigures& figures = layers_[static_cast<size_t>(step.layer)];
  const AttentionSpan& span = step.inputs.span;
  const TensorView& candidates = step.candidates;
  const int64_t tokens = step.inputs.q.dim(0);
  figures.tokens += tokens;
  int64_t attended = 0, selected = 0, full = 0, scanned = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t all = span.Position(t) - span.First(t) + 1;
    const int64_t far = span.NumFar(t);
    full += all;
    if (candidates.present()) {
      const int32_t* row = candidates.row<int32_t>(t);
      const int64_t chosen =
          std::count_if(row, row + candidates.dim(1), [](int32_t key) { return key >= 0; });
      selected += chosen;
      attended += all - far + chosen;
    } else {
      attended += all;
    }
    scanned += NumScoredKeys(step.search, span.SinksEnd(t), span.WindowBegin(t));
  }
  figures.attended_keys += static_cast<double>(attended);
  figures.selected_keys += static_cast<double>(selected);
  figures.full_keys += static_cast<double>(full);
  if (candidates.present() && config_.HasGate(step.layer))
    figures.scanned_keys += static_cast<double>(scanned);
}

void PassFigures::OnGuarantee(int64_t layer, const GuaranteedAttentionArgs& args) {
  // OnAttention counts what would have been read without the guarantee.
  const AttentionSpan& span = args.in.span;
  int64_t more = 0;
  for (int64_t t = 0; t < args.in.q.dim(0); ++t) {
    const int64_t left_out = std::max<int64_t>(0, span.NumFar(t) - args.candidates.dim(1));
    more += args.keys_read.data<int32_t>()[t] - (span.Position(t) - span.First(t) + 1 - left_out);
  }
  layers_[static_cast<size_t>(layer)].attended_keys += static_cast<double>(more);
}

void PassFigures::OnRouting(const RoutingStep& step) {
  std::vector<int64_t>& load = layers_[static_cast<size_t>(step.layer)].expert_load;
  for (int64_t t = 0; t < step.experts.dim(0); ++t) {
    const int32_t* row = step.experts.row<int32_t>(t);
    for (int64_t slot = 0; slot < step.experts.dim(1); ++slot) {
      if (row[slot] >= 0) ++load[static_cast<size_t>(row[slot])];
    }
  }
}

AttentionCost PassFigures::Cost() const {
  AttentionCost cost;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const LayerFigures& layer = layers_[i];
    cost.attention_flops += layer.attended_keys * AttentionFlopsPerKey(config_);
    cost.full_flops += layer.full_keys * AttentionFlopsPerKey(config_);
    cost.gate_scan_flops += layer.scanned_keys * GateScanFlopsPerKey(config_);
    if (config_.HasGate(static_cast<int64_t>(i))) {
      cost.gate_mlp_flops += static_cast<double>(layer.tokens) * GateFlopsPerToken(config_);
    }
  }
  return cost;
}

double PassFigures::MeanSelected() const {
  double selected = 0, queries = 0;
  for (const LayerFigures& layer : layers_) {
    selected += layer.selected_keys;
    queries += static_cast<double>(layer.tokens);
  }
  return queries > 0 ? selected / queries : 0;
}

double PassFigures::MeanUtilisation() const {
  double sum = 0;
  for (const LayerFigures& layer : layers_) sum += Utilisation(layer);
  return sum / static_cast<double>(layers_.size());
}

double PassFigures::WorstUtilisation() const {
  double worst = 1;
  for (const LayerFigures& layer : layers_) worst = std::min(worst, Utilisation(layer));
  return worst;
}

}  // namespace sluice
