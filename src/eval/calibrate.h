// Calibration: router biases for a domain, from a few thousand tokens of it, by the quantile balancing of
// training (train/router_balance.h).
//
// The calibration tokens are run several times, since a bias changes what deeper layers see; after each pass
// all biases move towards the quantiles. Of the balanced biases b* that this ends in and the model's own b0
// the profile is the largest blend
//   b = (1 − λ) b0 + λ b*,  λ in (0, 1],  loss(b) ≤ (1 + max_loss_rise) loss(b0)  on held-out tokens
// found by trying λ = 1, then by bisection: balance must not be bought with what the model knows.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/session.h"

namespace sluice {

struct CalibrationOptions {
  // Both are spread over the texts in windows, so that one document does not stand for the domain.
  int64_t tokens = 4096;
  int64_t held_out_tokens = 8192;
  int64_t context = 512;  // Tokens per window, each read on its own, as in eval/perplexity.h.
  int64_t passes = 8;
  double max_loss_rise = 0.005;
};

// Of one pass over some text. Utilisation is mean load / max load of a layer's experts.
struct RoutingFigures {
  double nats_per_token = 0;
  double utilisation = 0;        // Mean over layers.
  double worst_utilisation = 0;  // Lowest of a layer.
};

struct CalibrationResult {
  int64_t tokens = 0;           // As many as were asked for, or, of text that is just enough,
  int64_t held_out_tokens = 0;  // up to a window less.
  double max_loss_rise = 0;
  RoutingFigures calibration_before, calibration_after;
  RoutingFigures held_out_before, held_out_after;
  RoutingFigures held_out_balanced;      // λ = 1
  std::vector<double> pass_utilisation;  // Of the calibration tokens, pass by pass.
  double blend = 0;                      // λ; 0: no blend was admissible.
  double seconds = 0;
};

// Leaves the blend's biases in the engine's model. `progress` gets (done, total) tokens. Throws InputError
// for options out of range and for texts with too few tokens.
CalibrationResult Calibrate(Engine& engine, const std::vector<std::string>& texts,
                            const CalibrationOptions& options, const Session::Progress& progress = {});

std::string CalibrationTable(const CalibrationResult& result);
// {"tokens", "held_out_tokens", "max_loss_rise", "blend", "seconds", "pass_utilisation": [],
//  "calibration": {"before", "after"}, "held_out": {"before", "after", "balanced"}}, the last five each
//  {"nats_per_token", "utilisation", "worst_utilisation"}
nlohmann::ordered_json CalibrationJson(const CalibrationResult& result);

}  // namespace sluice
