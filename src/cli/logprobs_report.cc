#include "cli/logprobs_report.h"

#include <fmt/format.h>

#include <cmath>

#include "eval/table.h"
#include "text/utf8.h"

namespace sluice {

namespace {

// A token may end inside a character. Ids with which a model pads its vocabulary have no text.
std::string TextOf(const Tokenizer& tokenizer, int32_t token) {
  return token < tokenizer.vocab_size() ? SanitizeUtf8(tokenizer.TokenBytes(token)) : "";
}

// In quotes, line breaks and other control characters escaped: spaces are part of most tokens.
std::vector<std::string> Row(const Tokenizer& tokenizer, const TokenLogprob& token, const char* indent) {
  return {indent + nlohmann::json(TextOf(tokenizer, token.token)).dump(), std::to_string(token.token),
          fmt::format("{:.4f}", token.logprob), FormatShare(std::exp(token.logprob))};
}

nlohmann::ordered_json TokenJson(const Tokenizer& tokenizer, const TokenLogprob& token) {
  return {{"token", TextOf(tokenizer, token.token)}, {"id", token.token}, {"logprob", token.logprob}};
}

}  // namespace

std::string LogprobsTable(const Tokenizer& tokenizer, const std::vector<PlaceLogprobs>& places) {
  Table table({"token", "id", "logprob", "probability"});
  for (const PlaceLogprobs& place : places) {
    table.AddRow(Row(tokenizer, place.chosen, ""));
    for (const TokenLogprob& other : place.likeliest) {
      if (other.token != place.chosen.token) table.AddRow(Row(tokenizer, other, "  "));
    }
  }
  return table.ToString();
}

nlohmann::ordered_json LogprobsJson(const Tokenizer& tokenizer, const std::vector<PlaceLogprobs>& places) {
  auto json = nlohmann::ordered_json::array();
  for (const PlaceLogprobs& place : places) {
    nlohmann::ordered_json token = TokenJson(tokenizer, place.chosen);
    token["top_logprobs"] = nlohmann::ordered_json::array();
    for (const TokenLogprob& likely : place.likeliest)
      token["top_logprobs"].push_back(TokenJson(tokenizer, likely));
    json.push_back(std::move(token));
  }
  return json;
}

}  // namespace sluice
