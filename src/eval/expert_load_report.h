// A session's expert load for people and programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "eval/balance.h"

namespace sluice {

// {"utilisation", "cv", "gini", "effective_experts", "min_to_mean"}
nlohmann::ordered_json BalanceJson(const Balance& balance);

// {"num_experts", "utilisation": {"mean", "worst", "worst_layer"}, "layers": [{"layer", "rows", "load":
//  [experts], BalanceJson()}]}
nlohmann::ordered_json ExpertLoadJson(const ExpertLoad& load);

// A row per layer, in it a block per expert, as high as its share of the layer's fullest expert, and the
// layer's utilisation:
//   layer 0  ▆█▅▃▇▂▅▆  71.2%
std::string ExpertLoadBars(const ExpertLoad& load);

}  // namespace sluice
