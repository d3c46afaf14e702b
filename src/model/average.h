// The mean of several models' weights: runs that began at the same weights and went different ways often make
// a better model together than each alone (Wortsman et al., "Model soups", 2022).
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "model/model.h"

namespace sluice {

// A model of `ops`, which must outlive it, whose every parameter is the mean of those of the models in
// `folders`, computed in float64. Throws InputError if a folder is incomplete, if configs (router profiles
// apart) or tokenizers differ, or if weights are quantised, and names the folder. REQUIRES: one folder at
// least.
std::unique_ptr<Model> AverageModels(const std::vector<std::filesystem::path>& folders, Ops& ops);

}  // namespace sluice
