// The state of a training run, one file: parameters and optimiser moments in float32, and the number
// of steps done. Everything else is a function of the config and the step, so a run that starts from
// this file continues bit for bit. Written atomically: a crash leaves the last whole one.
#pragma once

#include <filesystem>

#include "model/model.h"
#include "train/optimizer.h"

namespace sluice {

// Throws SystemError (for example a full disk); the old file, if there is one, stays.
void SaveTrainingState(const std::filesystem::path& file, const Model& model, const Optimizer& optimizer,
                       int64_t steps_done);

// Returns the number of steps done. Throws InputError if the file is damaged or of another model shape.
int64_t LoadTrainingState(const std::filesystem::path& file, const Model& model, const Optimizer& optimizer);

}  // namespace sluice
