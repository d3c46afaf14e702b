// --expert-load of the commands that run a session.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "model/expert_load.h"

namespace sluice {

// What the footers of these commands say about it.
inline constexpr const char* kExpertLoadHelp =
    "--expert-load FILE writes how many rows each expert served, of all passes, as JSON: num_experts,\n"
    "utilisation (mean, worst, worst_layer), layers[] (layer, rows, load[], utilisation, cv, gini,\n"
    "effective_experts, min_to_mean). Utilisation is mean load / largest load. With - a bar per expert is\n"
    "drawn on standard error.\n";

void AddExpertLoadFlag(CLI::App& command, std::string& file);
// Does what the flag asks for; empty: nothing.
void ReportExpertLoad(const std::string& file, const ExpertLoad& load);

}  // namespace sluice
