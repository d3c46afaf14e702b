// The subcommands of `sluice eval`, and what they share.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/common_flags.h"

namespace sluice {

void AddEvalPerplexity(CLI::App& eval);  // eval_perplexity.cc
void AddEvalNeedle(CLI::App& eval);      // eval_needle.cc
void AddEvalGating(CLI::App& eval);      // eval_gating.cc
void AddEvalRouting(CLI::App& eval);     // eval_routing.cc

std::vector<std::filesystem::path> Paths(const std::vector<std::string>& names);
// Options of a command that attends in the modes of --attention; a guarantee with dense alone is an error.
SessionOptions MakeModesOptions(SessionFlags session, const std::string& attention);
// The same for one of the modes: a guarantee is for the sparse one.
SessionOptions InMode(SessionOptions options, AttentionMode mode);

}  // namespace sluice
