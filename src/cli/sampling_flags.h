// Flags of the commands that write text: how each token is drawn.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/common_flags.h"
#include "engine/sampler.h"

namespace sluice {

// What the footers of these commands say about them.
inline constexpr const char* kSamplingHelp =
    "Sampling, step by step: logits + --logit-bias; --repetition-penalty; --frequency-penalty and\n"
    "--presence-penalty; divided by --temperature; cut by --sample-top-k, --top-p, --min-p; then a draw "
    "that\n"
    "--seed decides. At --temperature 0, the default of most models, the likeliest token is taken after the\n"
    "penalties, and the cuts change nothing.\n"
    "--logprobs N lists every token with the natural logarithm of its probability and the N likeliest ones "
    "in\n"
    "its place (0: itself alone), as the model has them before all these steps; with --json also there.\n";

struct SamplingFlags {
  std::optional<double> temperature{};  // Absent: what generation_config.json says.
  std::optional<int64_t> top_k{};
  std::optional<double> top_p{};
  double min_p = SamplingOptions().min_p;
  double repetition_penalty = SamplingOptions().repetition_penalty;
  double presence_penalty = SamplingOptions().presence_penalty;
  double frequency_penalty = SamplingOptions().frequency_penalty;
  std::vector<std::string> logit_bias{};  // "TOKEN=BIAS"
  std::optional<int64_t> logprobs{};
  int64_t max_tokens = 256;
  int64_t max_draft = SamplingOptions().max_draft;
};
// --temperature, --sample-top-k, --top-p, --min-p, the penalties, --logit-bias, --logprobs, --max-tokens,
// --speculate.
void AddSamplingFlags(CLI::App& command, SamplingFlags& flags);
// Throws InputError for options out of range.
SamplingOptions MakeSamplingOptions(const SamplingFlags& flags, const CommonFlags& common,
                                    const Engine& engine);

}  // namespace sluice
