// Prompt lookup: drafts of the next tokens, taken from what followed the newest tokens when they last stood
// in the text (Saxena, "Prompt Lookup Decoding", 2023). An answer that quotes its prompt, or repeats itself,
// is foreseen so without another model. A draft costs a scan of the text; what it is worth is Speculation's
// matter (engine/speculation.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

// Newest tokens that have to recur, at least: fewer say little about what follows.
inline constexpr int64_t kMinLookupMatch = 3;
// A longer recurrence is as good as this one.
inline constexpr int64_t kMaxLookupMatch = 16;

// Up to `count` tokens that may follow `tokens`: those behind the longest recurrence of the newest ones, the
// latest of equal ones. Where that reaches the end of the text the draft goes on with itself, so that a loop
// is followed all the way. Empty if nothing of kMinLookupMatch tokens recurs.
std::vector<int32_t> PromptLookup(std::span<const int32_t> tokens, int64_t count);

}  // namespace sluice
