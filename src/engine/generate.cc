#include "engine/generate.h"

#include <chrono>

#include "base/interrupt.h"
#include "base/random.h"
#include "text/detokenizer.h"
#include "text/prompt.h"

namespace sluice {

namespace {

void Validate(const SamplingOptions& options) {
  if (!(options.temperature >= 0))
    throw InputError("temperature must not be negative, not {}", options.temperature);
  if (options.top_k < 0) throw InputError("top-k must not be negative, not {}", options.top_k);
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    throw InputError("top-p must be above 0 and at most 1, not {}", options.top_p);
  }
  if (options.max_tokens < 0) throw InputError("max-tokens must not be negative, not {}", options.max_tokens);
}

}  // namespace

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
  Validate(options);
  const auto start = std::chrono::steady_clock::now();
  Generation result;
  Detokenizer detokenizer(session.engine().tokenizer(), /*skip_special=*/true);
  const auto emit = [&](const std::string& text) {
    result.text += text;
    if (on_text && !text.empty()) on_text(text);
  };
  Random random(options.seed);
  result.stop = StopReason::kMaxTokens;
  while (static_cast<int64_t>(result.tokens.size()) < options.max_tokens) {
    ThrowIfInterrupted();
    int32_t token = 0;
    SampleArgs sample;
    sample.logits = session.logits();
    sample.temperature = options.temperature;
    sample.top_k = options.top_k;
    sample.top_p = options.top_p;
    sample.uniform = random.Uniform();
    sample.token = &token;
    session.engine().ops().Sample(sample);
    if (token == kEndOfText || token == kUser) {
      result.stop = StopReason::kStopToken;
      break;
    }
    result.tokens.push_back(token);
    // A model's vocabulary may be padded beyond the tokenizer's.
    emit(token < session.engine().tokenizer().vocab_size() ? detokenizer.Push(token) : std::string());
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
