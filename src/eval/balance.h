// How evenly experts are used, from the rows n_e that each of E served; m is their mean.
//   utilisation   m / max n             what a machine with a device per expert would be busy
//   cv            √(mean (n − m)²) / m  coefficient of variation
//   gini          Σ_e Σ_f |n_e − n_f| / (2 E² m)
//   effective     exp(−Σ s_e ln s_e) / E, s_e = n_e / Σ n
//   min_to_mean   min n / m
// Even use is 1, 0, 0, 1, 1; one expert taking all is 1/E, √(E − 1), 1 − 1/E, 1/E, 0.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/expert_load.h"

namespace sluice {

// Without any rows: as if used evenly.
struct Balance {
  double utilisation = 1;
  double cv = 0;
  double gini = 0;
  double effective = 1;
  double min_to_mean = 1;
};

Balance BalanceOf(std::span<const int64_t> counts);
// Figure by figure. REQUIRES: at least one.
Balance MeanOf(const std::vector<Balance>& layers);

std::vector<Balance> BalanceByLayer(const ExpertLoad& load);
// The layer of lowest utilisation, the first of equals.
int64_t WorstLayer(const std::vector<Balance>& layers);

}  // namespace sluice
