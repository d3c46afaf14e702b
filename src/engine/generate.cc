#include "engine/generate.h"

#include <chrono>

#include "base/interrupt.h"
#include "text/detokenizer.h"
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

Generation Generate(Session& session, const SamplingOptions& options,
                    const std::function<void(std::string_view text)>& on_text) {
  const auto start = std::chrono::steady_clock::now();
  const Engine& engine = session.engine();
  Sampler sampler(engine.ops(), options, session.tokens(), engine.config().vocab_size);
  Generation result;
  Detokenizer detokenizer(engine.tokenizer(), /*skip_special=*/true);
  const auto emit = [&](const std::string& text) {
    result.text += text;
    if (on_text && !text.empty()) on_text(text);
  };
  result.stop = StopReason::kMaxTokens;
  while (static_cast<int64_t>(result.tokens.size()) < options.max_tokens) {
    ThrowIfInterrupted();
    const int32_t token = sampler.Next(session.logits());
    if (token == kEndOfText || token == kUser) {
      result.stop = StopReason::kStopToken;
      break;
    }
    result.tokens.push_back(token);
    if (options.logprobs)
      result.logprobs.push_back(LogprobsOf(engine.ops(), session.logits(), token, *options.logprobs));
    // A model's vocabulary may be padded beyond the tokenizer's.
    emit(token < engine.tokenizer().vocab_size() ? detokenizer.Push(token) : std::string());
    if (session.num_tokens() == session.capacity()) {
      result.stop = StopReason::kContextFull;
      break;
    }
    session.Append(token);
    ++result.passes;
  }
  emit(detokenizer.Finish());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace sluice
