// What stands below `sluice bench`.
#pragma once

#include <CLI/CLI.hpp>

namespace sluice {

void AddBenchAttention(CLI::App& bench);  // bench_attention.cc

}  // namespace sluice
