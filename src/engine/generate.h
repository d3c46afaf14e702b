// The decode loop: sample a token, hand out its text, run it, until the model stops.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/sampler.h"
#include "engine/session.h"

namespace sluice {

enum class StopReason { kStopToken, kMaxTokens, kContextFull };
std::string_view NameOf(StopReason reason);

struct Generation {
  std::vector<int32_t> tokens;          // Without the stop token.
  std::string text;                     // Valid UTF-8.
  std::vector<PlaceLogprobs> logprobs;  // One per token if SamplingOptions::logprobs asks for them.
  StopReason stop = StopReason::kStopToken;
  int64_t passes = 0;  // Decode passes run.
  double seconds = 0;  // Of sampling and decode passes.
};

// Continues a session's timeline until <|endoftext|>, <|user|>, max_tokens or a full context. `on_text`
// gets the text as it becomes whole. The timeline so far is the prompt of SamplingOptions' penalties. The
// same session state, options and seed give the same tokens. Throws InputError for options out of range,
// Interrupted on Ctrl-C.
Generation Generate(Session& session, const SamplingOptions& options,
                    const std::function<void(std::string_view text)>& on_text = {});

}  // namespace sluice
