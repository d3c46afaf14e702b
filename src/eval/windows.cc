#include "eval/windows.h"

#include <algorithm>

namespace sluice {

std::vector<TokenWindow> CutWindows(const Tokenizer& tokenizer, const std::vector<std::string>& texts,
                                    int64_t context, int64_t max_tokens) {
  std::vector<TokenWindow> windows;
  int64_t total = 0;
  for (const std::string& text : texts) {
    const std::vector<int32_t> tokens = tokenizer.Encode(text);
    const auto size = static_cast<int64_t>(tokens.size());
    for (int64_t begin = 0; begin + 1 < size; begin += context) {
      int64_t end = std::min(begin + context, size);
      if (max_tokens > 0) end = std::min(end, begin + max_tokens - total);
      if (end - begin < 2) return windows;
      windows.emplace_back(tokens.begin() + begin, tokens.begin() + end);
      total += end - begin;
    }
  }
  return windows;
}

void ScoreWindow(Session& session, const TokenWindow& window,
                 const std::function<void(int64_t begin, std::span<const float> losses)>& on_slice) {
  session.Clear();
  const std::span<const int32_t> tokens = window;
  const auto slice = static_cast<size_t>(session.options().chunk_tokens);
  for (size_t begin = 0; begin < tokens.size(); begin += slice) {
    const auto part = tokens.subspan(begin, std::min(slice, tokens.size() - begin));
    on_slice(static_cast<int64_t>(begin), session.AppendScored(part));
  }
}

}  // namespace sluice
