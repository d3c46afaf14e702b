// The curves of a training run, from its metrics.csv (train/metrics.h).
#pragma once

#include <filesystem>

namespace sluice {

// Draws text, answer and gate losses against tokens, each averaged over about 1% of the run.
// Throws InputError if `metrics` is not a metrics file with at least one step.
void PlotTraining(const std::filesystem::path& metrics, const std::filesystem::path& svg);

}  // namespace sluice
