// The decode loop: sample a token, hand out its text, run it, until the model stops.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/sampler.h"
#include "engine/session.h"
#include "text/detokenizer.h"

namespace sluice {

enum class StopReason { kStopToken, kMaxTokens, kContextFull };
std::string_view NameOf(StopReason reason);

struct Generation {
  std::vector<int32_t> tokens;          // Without the stop token.
  std::string text;                     // Valid UTF-8.
  std::vector<PlaceLogprobs> logprobs;  // One per token if SamplingOptions::logprobs asks for them.
  StopReason stop = StopReason::kStopToken;
  int64_t passes = 0;    // Decode passes run.
  int64_t drafted = 0;   // Tokens that speculation had checked in them,
  int64_t accepted = 0;  // and of these the ones that were drawn.
  double seconds = 0;    // Of sampling and decode passes.
};

using OnText = std::function<void(std::string_view text)>;

// What is written behind one prompt, token by token, whoever runs the passes.
class Continuation {
 public:
  // `engine` outlives it; `prompt` is all that precedes the first token. `on_text` gets the text as it
  // becomes whole. Throws InputError for options out of range.
  Continuation(const Engine& engine, const SamplingOptions& options, std::span<const int32_t> prompt,
               OnText on_text = {});

  // It has ended by <|endoftext|>, <|user|>, max_tokens or a full context.
  bool is_over() const { return is_over_; }
  // Draws the next token from `logits` [vocab]. The token, if it is to run before another one can be drawn:
  // not a stop token, nor one that the timeline has no room for. REQUIRES: !is_over().
  std::optional<int32_t> Next(const TensorView& logits, bool has_room);
  // Hands out what text is left; passes and seconds are the caller's to fill in.
  Generation Finish();

  const Generation& so_far() const { return result_; }

 private:
  void Emit(const std::string& text);

  const Engine& engine_;
  SamplingOptions options_;
  Sampler sampler_;
  Detokenizer detokenizer_;
  OnText on_text_;
  Generation result_;
  bool is_over_;
};

// Continues a session's timeline until it is over. The timeline so far is the prompt of SamplingOptions'
// penalties. The same session state, options and seed give the same tokens, whatever max_draft is. Throws
// InputError for options out of range, Interrupted on Ctrl-C.
Generation Generate(Session& session, const SamplingOptions& options, const OnText& on_text = {});

}  // namespace sluice
