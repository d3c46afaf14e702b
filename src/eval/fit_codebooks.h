// Fits a model's key codebooks (model/key_codebooks.h) to the keys and queries that it has on some text, so
// that a guarantee's bounds are tight:
//   mean       that of the keys
//   codewords  stage by stage, k-means of what the stages before left, in the metric of the weights
//   weights    w_c = (E[q_c²] / E[r_c²])^(1/4), r what the codewords leave of the keys: those for which
//              E|q / w|² E|w ∘ r|² is least, by turns with the codewords; scaled so that |w ∘ r| is about 1
// By how many nats a bound is above what it bounds is mean |q / w| · mean |w ∘ r| / √d, the layer's slack.
// The stages are shared out among the layers one at a time, each to the layer whose slack falls by most.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "eval/spread_windows.h"
#include "model/key_codebooks.h"

namespace sluice {

struct FitCodebooksOptions {
  SpreadOptions text = {.tokens = 32768, .context = 4096};
  // Of the bytes of keys and values in bfloat16, what the codes may take, on the average of all layers.
  double share = 0.02;
  int64_t max_stages = 16;  // Of a layer.
  uint64_t seed = 1;
};

struct CodebookFigures {
  int64_t stages = 0;
  double slack_before = 0;  // Nats, without stages.
  double slack = 0;         // Nats.
};

struct FitCodebooksResult {
  KeyCodebooks codebooks;
  std::vector<CodebookFigures> layers;
  double share = 0;  // What the codes take.
  double seconds = 0;
};

// `progress` gets (done, total): tokens read, then stages fitted, counted as so many tokens. Throws
// InputError for options out of range and texts that are too short.
FitCodebooksResult FitCodebooks(const Engine& engine, const std::vector<std::string>& texts,
                                const FitCodebooksOptions& options, const Session::Progress& progress = {});

std::string FitCodebooksTable(const FitCodebooksResult& result);
// {"share", "seconds", "layers": [{"stages", "slack_before", "slack"}]}
nlohmann::ordered_json FitCodebooksJson(const FitCodebooksResult& result);

}  // namespace sluice
