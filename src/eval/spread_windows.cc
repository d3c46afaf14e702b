#include "eval/spread_windows.h"

#include <algorithm>
#include <span>

#include "eval/windows.h"

namespace sluice {

void ReadSpreadWindows(const Engine& engine, const std::vector<std::string>& texts,
                       const SpreadOptions& options, const Session::Progress& progress,
                       PassObserver* observer) {
  const int64_t context_length = engine.config().context_length;
  if (options.context < 2 || options.context > context_length) {
    throw InputError("--context must be between 2 and this model's context of {} tokens, not {}",
                     context_length, options.context);
  }
  constexpr int64_t kMaxTokens = 1 << 24;
  if (options.tokens < options.context || options.tokens > kMaxTokens) {
    throw InputError("--tokens must be between --context, {}, and {}, not {}", options.context, kMaxTokens,
                     options.tokens);
  }
  // Documents' ends that fill no window are left out.
  std::vector<TokenWindow> windows = CutWindows(engine.tokenizer(), texts, options.context, 0);
  std::erase_if(windows, [&](const TokenWindow& window) {
    return static_cast<int64_t>(window.size()) < options.context;
  });
  const auto available = static_cast<int64_t>(windows.size());
  const int64_t wanted = options.tokens / options.context;
  if (available < wanted) {
    throw InputError(
        "the texts have {} windows of {} tokens, but {} are needed; give more text, or lower --tokens",
        available, options.context, wanted);
  }
  SessionOptions session_options;
  session_options.capacity = options.context;
  Session session(engine, session_options);
  session.Observe(observer);
  int64_t done = 0;
  for (int64_t i = 0; i < wanted; ++i) {
    ScoreWindow(session, windows[static_cast<size_t>(i * available / wanted)],
                [&](int64_t, std::span<const float> losses) {
                  done += static_cast<int64_t>(losses.size());
                  if (progress) progress(done, wanted * options.context);
                });
  }
}

}  // namespace sluice
