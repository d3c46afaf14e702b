#include "engine/generate.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/interrupt.h"
#include "engine/speculation.h"
#include "text/prompt.h"

namespace sluice {

std::string_view NameOf(StopReason reason) {
  switch (reason) {
    case StopReason::kStopToken:
      return "stop token";
    case StopReason::kMaxTokens:
      return "token limit";
    case StopReason::kContextFull:
      return "context full";
  }
  return "";
}

Continuation::Continuation(const Engine& engine, const SamplingOptions& options,
                           std::span<const int32_t> prompt, OnText on_text)
    : engine_(engine),
      options_(options),
      sampler_(engine.ops(), options, prompt, engine.config().vocab_size),
      detokenizer_(engine.tokenizer(), /*skip_special=*/true),
      on_text_(std::move(on_text)),
      is_over_(options.max_tokens == 0) {
  result_.stop = StopReason::kMaxTokens;
}

void Continuation::Emit(const std::string& text) {
  result_.text += text;
  if (on_text_ && !text.empty()) on_text_(text);
}

std::optional<int32_t> Continuation::Next(const TensorView& logits, bool has_room) {
  SLUICE_CHECK(!is_over_);
  const int32_t token = sampler_.Next(logits);
  if (token == kEndOfText || token == kUser) {
    result_.stop = StopReason::kStopToken;
    is_over_ = true;
    return std::nullopt;
  }
  result_.tokens.push_back(token);
  if (options_.logprobs)
    result_.logprobs.push_back(LogprobsOf(engine_.ops(), logits, token, *options_.logprobs));
  // A model's vocabulary may be padded beyond the tokenizer's.
  if (token < engine_.tokenizer().vocab_size()) Emit(detokenizer_.Push(token));
  is_over_ = !has_room || std::ssize(result_.tokens) == options_.max_tokens;
  if (has_room) return token;
  result_.stop = StopReason::kContextFull;
  return std::nullopt;
}

Generation Continuation::Finish() {
  Emit(detokenizer_.Finish());
  return std::move(result_);
}

namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Draws tokens and runs them, with drafts where that pays.
void WriteOn(Session& session, Continuation& continuation, const SamplingOptions& options,
             Generation& figures) {
  Speculation speculation(options.max_draft);
  std::vector<int32_t> tokens = session.tokens();
  while (!continuation.is_over()) {
    ThrowIfInterrupted();
    const auto token = continuation.Next(session.logits(), session.num_tokens() < session.capacity());
    if (!token) return;
    tokens.push_back(*token);
    if (session.IsForeseen(*token)) {
      ++figures.accepted;
      session.Append(*token);
      continue;
    }
    const int64_t written = std::ssize(continuation.so_far().tokens);
    const int64_t most =
        std::min(options.max_tokens - written, session.capacity() - session.num_tokens() - 1);
    const std::vector<int32_t> draft = speculation.Draft(tokens, most);
    const auto start = Clock::now();
    session.Append(*token, draft);
    speculation.PassDone(std::ssize(draft), SecondsSince(start));
    ++figures.passes;
    figures.drafted += std::ssize(draft);
  }
}

}  // namespace

Generation Generate(Session& session, const SamplingOptions& options, const OnText& on_text) {
  const auto start = Clock::now();
  Continuation continuation(session.engine(), options, session.tokens(), on_text);
  Generation figures;
  try {
    WriteOn(session, continuation, options, figures);
  } catch (...) {
    session.Settle();
    throw;
  }
  session.Settle();
  Generation result = continuation.Finish();
  result.passes = figures.passes;
  result.drafted = figures.drafted;
  result.accepted = figures.accepted;
  result.seconds = SecondsSince(start);
  return result;
}

}  // namespace sluice
