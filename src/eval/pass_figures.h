// Counts what passes through a model cost: attended keys, gate scans, expert load, layer by layer.
#pragma once

#include <cstdint>
#include <vector>

#include "model/model.h"

namespace sluice {

struct LayerFigures {
  int64_t tokens = 0;
  double attended_keys = 0;  // Window, sinks, selection and what a guarantee adds, summed over queries.
  double selected_keys = 0;  // The selection alone; 0 in dense passes.
  double full_keys = 0;      // What full attention would have read.
  double scanned_keys = 0;   // By the gate; 0 in layers that reuse another's selection.
  std::vector<int64_t> expert_load;  // Rows served by each expert.
};

// Sums over layers, by the formulas of model/flops.h.
struct AttentionCost {
  double attention_flops = 0;
  double gate_scan_flops = 0;
  double gate_mlp_flops = 0;
  double full_flops = 0;

  double sparse_flops() const { return attention_flops + gate_scan_flops + gate_mlp_flops; }
};

class PassFigures : public PassObserver {
 public:
  explicit PassFigures(const ModelConfig& config);

  void OnAttention(const AttentionStep& step) override;
  void OnGuarantee(int64_t layer, const GuaranteedAttentionArgs& args) override;
  void OnRouting(const RoutingStep& step) override;

  const std::vector<LayerFigures>& layers() const { return layers_; }
  AttentionCost Cost() const;

  // Selected keys per query, mean over layers; 0 before any sparse pass.
  double MeanSelected() const;

  // Mean load / max load of a layer's experts, in (0, 1]: its mean over layers and its worst layer.
  // 1 before any pass.
  double MeanUtilisation() const;
  double WorstUtilisation() const;

 private:
  ModelConfig config_;
  std::vector<LayerFigures> layers_;
};

}  // namespace sluice
