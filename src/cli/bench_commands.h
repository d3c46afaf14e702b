// What stands below `sluice bench`.
#pragma once

#include <CLI/CLI.hpp>

namespace sluice {

void AddBenchAttention(CLI::App& bench);    // bench_attention.cc
void AddBenchLoad(CLI::App& bench);         // bench_load.cc
void AddBenchRandomModel(CLI::App& bench);  // bench_random_model.cc

}  // namespace sluice
