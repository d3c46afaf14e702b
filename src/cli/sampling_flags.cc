#include "cli/sampling_flags.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <string_view>

namespace sluice {

namespace {

// All of the text as a number.
template <class Number>
bool ParseNumber(std::string_view text, Number& number) {
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && rest == end;
}

std::map<int32_t, double> ParseLogitBias(const std::vector<std::string>& flags) {
  std::map<int32_t, double> logit_bias;
  for (const std::string& flag : flags) {
    const std::string_view text = flag;
    const size_t equals = std::min(text.find('='), text.size());
    int32_t token = 0;
    double bias = 0;
    if (!ParseNumber(text.substr(0, equals), token) ||
        !ParseNumber(text.substr(std::min(equals + 1, text.size())), bias)) {
      throw InputError(
          "--logit-bias: \"{}\" is not TOKEN=BIAS, a token's id and a number, such as 17=-5 or 17=-inf",
          flag);
    }
    if (!logit_bias.emplace(token, bias).second)
      throw InputError("--logit-bias: token {} is given twice; give it one bias", token);
  }
  return logit_bias;
}

}  // namespace

void AddSamplingFlags(CLI::App& command, SamplingFlags& flags) {
  command.add_option(
      "--temperature", flags.temperature,
      "Flattens (above 1) or sharpens (below) the choice; 0: always the likeliest token; default: "
      "the model's own");
  command.add_option("--sample-top-k", flags.top_k, "Sample from the K likeliest tokens; 0: from all");
  command.add_option("--top-p", flags.top_p, "Sample from the likeliest tokens of this joint probability");
  command
      .add_option(
          "--min-p", flags.min_p,
          "Sample from tokens with at least this share of the likeliest one's probability, such as 0.05")
      ->capture_default_str();
  command
      .add_option(
          "--repetition-penalty", flags.repetition_penalty,
          "Divides positive logits of tokens seen in prompt or answer and multiplies negative ones; 1: "
          "none; above 1: fewer repetitions. A long document has nearly every token: prefer the next two")
      ->capture_default_str();
  command
      .add_option("--presence-penalty", flags.presence_penalty,
                  "Subtracted from the logits of tokens that the answer has already, -2 to 2")
      ->capture_default_str();
  command
      .add_option("--frequency-penalty", flags.frequency_penalty,
                  "Subtracted as many times as the answer has the token, -2 to 2")
      ->capture_default_str();
  command
      .add_option(
          "--logit-bias", flags.logit_bias,
          "TOKEN=BIAS: added to the logit of the token with this id, -100 to 100, or -inf to ban it; may "
          "be given several times. --logprobs shows ids")
      ->allow_extra_args(false);
  command.add_option("--logprobs", flags.logprobs,
                     "List logprobs of every token and of the N likeliest, 0 to 20");
  command.add_option("--max-tokens", flags.max_tokens, "Longest answer")->capture_default_str();
  command
      .add_option("--speculate", flags.max_draft,
                  "Guess up to N tokens ahead, 0 to 63, from where the newest words stood before, and check "
                  "them in one pass, where that pays; 0: never. Faster where text repeats; the answer is the "
                  "same")
      ->capture_default_str();
}

SamplingOptions MakeSamplingOptions(const SamplingFlags& flags, const CommonFlags& common,
                                    const Engine& engine) {
  const GenerationConfig& defaults = engine.generation();
  SamplingOptions options;
  options.temperature = flags.temperature.value_or(defaults.temperature);
  options.top_k = flags.top_k.value_or(defaults.top_k);
  options.top_p = flags.top_p.value_or(defaults.top_p);
  options.min_p = flags.min_p;
  options.repetition_penalty = flags.repetition_penalty;
  options.presence_penalty = flags.presence_penalty;
  options.frequency_penalty = flags.frequency_penalty;
  options.logit_bias = ParseLogitBias(flags.logit_bias);
  options.logprobs = flags.logprobs;
  options.max_tokens = flags.max_tokens;
  options.max_draft = flags.max_draft;
  options.seed = common.seed;
  CheckSamplingOptions(options, engine.config().vocab_size);
  return options;
}

}  // namespace sluice
