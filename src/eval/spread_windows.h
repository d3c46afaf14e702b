// Reading a part of some texts that stands for all of them: windows spread evenly from end to end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/session.h"

namespace sluice {

struct SpreadOptions {
  int64_t tokens = 16384;
  int64_t context = 512;  // Tokens per window, each read on its own, as in eval/perplexity.h.
};

// Runs so many tokens, to a window, through the model, head included. `progress` gets (done, total) tokens,
// `observer`, if there is one, the passes.
// Throws InputError for options out of range, and if the texts have fewer tokens.
void ReadSpreadWindows(const Engine& engine, const std::vector<std::string>& texts,
                       const SpreadOptions& options, const Session::Progress& progress = {},
                       PassObserver* observer = nullptr);

}  // namespace sluice
