#include "eval/perplexity.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <numbers>
#include <optional>

#include "eval/gate_mass.h"
#include "eval/pass_figures.h"
#include "eval/table.h"
#include "eval/windows.h"

namespace sluice {

namespace {

void AddSlice(const Tokenizer& tokenizer, std::span<const int32_t> tokens, std::span<const float> losses,
              int64_t offset, PerplexityResult& result) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto place = static_cast<uint64_t>(offset) + i;
    if (place == 0) continue;
    const double loss = losses[i];
    result.nats += loss;
    result.tokens += 1;
    result.bytes += static_cast<int64_t>(tokenizer.TokenBytes(tokens[i]).size());
    const auto bucket = static_cast<size_t>(std::bit_width(place) - 1);
    if (bucket >= result.bucket_nats.size()) {
      result.bucket_nats.resize(bucket + 1);
      result.bucket_tokens.resize(bucket + 1);
    }
    result.bucket_nats[bucket] += loss;
    result.bucket_tokens[bucket] += 1;
  }
}

}  // namespace

double PerplexityResult::perplexity() const {
  return std::exp(nats_per_token());
}

double PerplexityResult::bits_per_byte() const {
  return bytes > 0 ? nats / std::numbers::ln2 / static_cast<double>(bytes) : 0;
}

PerplexityResult RunPerplexity(const Engine& engine, const std::vector<std::string>& texts,
                               const PerplexityOptions& options, const Session::Progress& progress) {
  if (options.context < 2 || options.context > engine.config().context_length) {
    throw InputError("--context must be between 2 and this model's context of {} tokens, not {}",
                     engine.config().context_length, options.context);
  }
  const auto start = std::chrono::steady_clock::now();
  const std::vector<TokenWindow> windows =
      CutWindows(engine.tokenizer(), texts, options.context, options.max_tokens);
  if (windows.empty()) throw InputError("the files hold no document of two tokens or more");
  int64_t total = 0;
  int64_t longest = 0;
  for (const TokenWindow& window : windows) {
    const auto size = static_cast<int64_t>(window.size());
    total += size;
    longest = std::max(longest, size);
  }
  PerplexityResult result;
  result.attention = options.session.attention;
  SessionOptions session_options = options.session;
  session_options.capacity = longest;
  Session session(engine, session_options);
  PassFigures figures(engine.config());
  ObserverList observers({&figures});
  if (session_options.guarantee > 0) observers.Add(&result.guarantee.emplace());
  session.Observe(&observers);
  int64_t done = 0;
  for (const TokenWindow& window : windows) {
    ScoreWindow(session, window, [&](int64_t begin, std::span<const float> losses) {
      const auto tokens = std::span(window).subspan(static_cast<size_t>(begin), losses.size());
      AddSlice(engine.tokenizer(), tokens, losses, begin, result);
      done += static_cast<int64_t>(losses.size());
      if (progress) progress(done, total);
    });
  }
  result.selected_keys = figures.MeanSelected();
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

double SparseToDense(const std::vector<PerplexityResult>& results) {
  std::optional<double> sparse, dense;
  for (const PerplexityResult& result : results) {
    (result.attention == AttentionMode::kDense ? dense : sparse) = result.perplexity();
  }
  return sparse && dense ? *sparse / *dense - 1 : 0;
}

std::string PerplexityTable(const std::vector<PerplexityResult>& results) {
  Table table({"attention", "tokens", "nats/token", "perplexity", "bits/byte", "keys", "tokens/s"});
  for (const PerplexityResult& result : results) {
    table.AddRow(
        {NameOf(result.attention), FormatCount(result.tokens), fmt::format("{:.4f}", result.nats_per_token()),
         fmt::format("{:.3f}", result.perplexity()), fmt::format("{:.4f}", result.bits_per_byte()),
         result.attention == AttentionMode::kDense ? "all" : fmt::format("{:.1f}", result.selected_keys),
         fmt::format("{:.0f}", static_cast<double>(result.tokens) / std::max(result.seconds, 1e-9))});
  }
  std::string text = table.ToString();
  for (const PerplexityResult& result : results) {
    if (result.guarantee) text += result.guarantee->Line();
  }
  if (results.size() > 1)
    text += fmt::format("sparse against dense: {:+.2f}% perplexity\n", 100 * SparseToDense(results));
  return text;
}

nlohmann::ordered_json PerplexityJson(const std::vector<PerplexityResult>& results, int64_t context) {
  nlohmann::ordered_json json = {{"context", context}, {"results", nlohmann::ordered_json::array()}};
  for (const PerplexityResult& result : results) {
    nlohmann::ordered_json by_position = nlohmann::ordered_json::array();
    for (size_t bucket = 0; bucket < result.bucket_nats.size(); ++bucket) {
      if (result.bucket_tokens[bucket] == 0) continue;
      const auto tokens = static_cast<double>(result.bucket_tokens[bucket]);
      by_position.push_back({{"from", int64_t{1} << bucket},
                             {"tokens", result.bucket_tokens[bucket]},
                             {"nats_per_token", result.bucket_nats[bucket] / tokens}});
    }
    json["results"].push_back({{"attention", NameOf(result.attention)},
                               {"tokens", result.tokens},
                               {"bytes", result.bytes},
                               {"nats_per_token", result.nats_per_token()},
                               {"perplexity", result.perplexity()},
                               {"bits_per_byte", result.bits_per_byte()},
                               {"selected_keys", result.selected_keys},
                               {"seconds", result.seconds},
                               {"by_position", by_position}});
    if (result.guarantee) json["results"].back()["guarantee"] = result.guarantee->Json();
  }
  if (results.size() > 1) json["sparse_to_dense"] = SparseToDense(results);
  return json;
}

}  // namespace sluice
