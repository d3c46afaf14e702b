// What --logprobs of `sluice generate` and `sluice ask` shows.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/sampler.h"
#include "text/tokenizer.h"

namespace sluice {

// A row per token of the text, and under it, indented, the other likeliest tokens of its place.
std::string LogprobsTable(const Tokenizer& tokenizer, const std::vector<PlaceLogprobs>& places);
// [{"token", "id", "logprob", "top_logprobs": [{"token", "id", "logprob"}]}].
nlohmann::ordered_json LogprobsJson(const Tokenizer& tokenizer, const std::vector<PlaceLogprobs>& places);

}  // namespace sluice
