// How a model uses its experts on texts of several kinds. Every text is cut into windows that are read on
// their own, as the perplexity evaluation does, and gives per layer
//   load        rows that each expert served, and how even they are (balance.h)
//   rerouted, unserved
//               shares of all choices that training's dynamic capacity (ops/router.h) would have sent to
//               another expert, or to none. Inference has no capacity: the router runs once more, with
//               capacity, on the logits of a window as one sequence.
//   entropy     mean over tokens of −Σ_e s_e ln s_e, s = p / Σ p, as a share of ln E; 1 for E = 1
// Texts are compared with the first one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/session.h"
#include "eval/balance.h"
#include "eval/plot.h"

namespace sluice {

struct RoutingOptions {
  int64_t tokens = 65536;          // Of each text, at most.
  std::optional<int64_t> context;  // Tokens per window; absent: kContext, or the model's context if shorter.
  double capacity_factor = RouterCapacity().factor;
  double capacity_prior_tokens = RouterCapacity().prior_tokens;
  double capacity_gamma_max = RouterCapacity().gamma_max;
  SessionOptions session;  // `capacity` is set to the context.

  static constexpr int64_t kContext = 4096;
};

// One kind of text.
struct RoutingText {
  std::string name;
  std::vector<std::string> documents;
};

// A text per path, named by its stem, or by the path if two stems are alike. Throws InputError as
// ReadDocuments does (documents.h).
std::vector<RoutingText> ReadRoutingTexts(const std::vector<std::string>& paths);

struct LayerRouting {
  double rerouted = 0;
  double unserved = 0;
  double entropy = 0;
};

struct TextRouting {
  TextRouting(std::string text_name, ExpertLoad expert_load)
      : name(std::move(text_name)), load(std::move(expert_load)) {}

  std::string name;
  int64_t tokens = 0;
  int64_t windows = 0;
  double nats = 0;  // Per predicted token.
  ExpertLoad load;
  std::vector<LayerRouting> layers;

  LayerRouting Mean() const;
};

struct RoutingResult {
  RoutingOptions options;  // As they were used.
  int64_t experts_per_token = 0;
  std::vector<TextRouting> texts;
  double seconds = 0;
};

// `progress` gets (done, total) tokens. Throws InputError for options that do not fit the model, and for a
// text without a document of two tokens.
RoutingResult RunRouting(const Engine& engine, const std::vector<RoutingText>& texts,
                         const RoutingOptions& options, const Session::Progress& progress = {});

// What two texts share of their experts: mean over layers of Σ_e min(share_a, share_b), 0 to 1.
double LoadOverlap(const ExpertLoad& a, const ExpertLoad& b);

// An expert and its load as a multiple of its layer's mean.
struct ExpertUse {
  int64_t layer = 0;
  int64_t expert = 0;
  double over_even = 0;
};
// The `count` most used ones of all layers.
std::vector<ExpertUse> MostUsed(const ExpertLoad& load, int64_t count);

// Per text a row per layer; for several texts also the comparison, and which experts serve which text.
std::string RoutingTable(const RoutingResult& result);
// {"tokens", "context", "capacity_factor", "capacity_prior_tokens", "capacity_gamma_max", "num_experts",
//  "experts_per_token", "seconds", "texts": [{"text", "tokens", "windows", "nats_per_token", figures of the
//  mean over layers, "worst_utilisation", "worst_layer", "layers": [{"layer", figures}],
//  "load": [layers][experts], "most_used": [{"layer", "expert", "over_even"}], "overlap",
//  "utilisation_change"}]}
// figures: BalanceJson() (expert_load_report.h), "rerouted", "unserved", "entropy". "overlap" and
// "utilisation_change" (ratio − 1) are against the first text.
nlohmann::ordered_json RoutingJson(const RoutingResult& result);
// Each expert's load over its layer's mean: a block of rows per text, a row per layer.
HeatMap RoutingPlot(const RoutingResult& result);

}  // namespace sluice
