// Documents as evaluations of plain text read them: cut into windows, each read on its own.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/session.h"

namespace sluice {

using TokenWindow = std::vector<int32_t>;

// Windows of `context` tokens, shorter at a document's end, of the first `max_tokens` tokens (0: of all). One
// of a single token is left out: nothing in it could be predicted.
std::vector<TokenWindow> CutWindows(const Tokenizer& tokenizer, const std::vector<std::string>& texts,
                                    int64_t context, int64_t max_tokens);

// Makes `window` the session's timeline. `on_slice` gets the place of each slice's first token and the losses
// of its tokens (Session::AppendScored), so that progress shows within a long window.
void ScoreWindow(Session& session, const TokenWindow& window,
                 const std::function<void(int64_t begin, std::span<const float> losses)>& on_slice);

}  // namespace sluice
