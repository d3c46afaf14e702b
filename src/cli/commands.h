// The commands of the binary: each adds its subcommand and flags to the app, in a file of its own, and
// runs from its callback. Errors are thrown (base/error.h); main turns them into messages and exit codes.
#pragma once

#include <CLI/CLI.hpp>

namespace sluice {

void AddAskCommand(CLI::App& app);           // ask_command.cc
void AddGenerateCommand(CLI::App& app);      // generate_command.cc
void AddInfoCommand(CLI::App& app);          // info_command.cc
void AddEvalCommand(CLI::App& app);          // eval_command.cc: perplexity, needle, gating, routing
void AddBenchCommand(CLI::App& app);         // bench_command.cc: the whole model, attention
void AddCalibrateCommand(CLI::App& app);     // calibrate_command.cc
void AddFitCodebooksCommand(CLI::App& app);  // fit_codebooks_command.cc
void AddAverageCommand(CLI::App& app);       // average_command.cc
void AddQuantizeCommand(CLI::App& app);      // quantize_command.cc
void AddTokenizerCommand(CLI::App& app);     // tokenizer_command.cc
void AddTrainCommand(CLI::App& app);         // train_command.cc

}  // namespace sluice
