#include "engine/prompt_lookup.h"

#include <algorithm>

namespace sluice {

std::vector<int32_t> PromptLookup(std::span<const int32_t> tokens, int64_t count) {
  const auto size = static_cast<int64_t>(tokens.size());
  const int32_t* text = tokens.data();
  int64_t best_end = 0;  // Of the recurrence: one behind its last token.
  int64_t best_length = kMinLookupMatch - 1;
  for (int64_t end = size - 1; end > best_length && best_length < kMaxLookupMatch; --end) {
    if (text[end - 1] != text[size - 1]) continue;
    const int64_t most = std::min(end, kMaxLookupMatch);
    int64_t length = 1;
    while (length < most && text[end - 1 - length] == text[size - 1 - length]) ++length;
    if (length <= best_length) continue;
    best_length = length;
    best_end = end;
  }
  std::vector<int32_t> draft;
  if (best_end == 0) return draft;
  const int64_t period = size - best_end;
  for (int64_t i = 0; i < count; ++i) draft.push_back(text[best_end + i % period]);
  return draft;
}

}  // namespace sluice
