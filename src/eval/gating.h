// How well the gate chooses, on real documents: four numbers for it and for its controls (selectors.h).
//   recall, retained and relative mass, recall by distance: gate_mass.h, on queries spread over the
//       document's last `scored` tokens
//   loss: nats per token of those tokens, against all keys with the same weights
// A document's earlier part is read once, with the gate, and every selector goes on from the same cache:
// what is compared is the reading of the last tokens alone.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/session.h"
#include "eval/gate_mass.h"

namespace sluice {

struct GatingOptions {
  std::vector<std::string> selectors;
  int64_t length = 32768;  // Tokens of a document that are read: its first ones.
  int64_t documents = 8;   // At most; those with fewer tokens are left out.
  int64_t scored = 512;
  int64_t queries = 32;  // Per document; in every layer.
  uint64_t seed = 1;
  SessionOptions session;  // `capacity` is set to the length.
};

struct GatingRow {
  std::string selector;
  GateMassSummary mass;
  double nats = 0;  // Per token.
};

struct GatingResult {
  GatingOptions options;
  int64_t documents = 0;  // Read.
  double dense_nats = 0;  // Per token.
  std::vector<GatingRow> rows;
  double seconds = 0;
};

// `progress` gets (done, total) tokens. Throws InputError if no text is long enough, or for options that
// do not fit the model or each other.
GatingResult RunGating(const Engine& engine, const std::vector<std::string>& texts,
                       const GatingOptions& options, const Session::Progress& progress = {});

// One row per selector, then recall by distance.
std::string GatingTable(const GatingResult& result);
// {"length", "documents", "scored", "queries", "top_k", "seed", "seconds", "dense_nats_per_token",
//  "selectors": [{"selector", "samples", "recall", "retained", "relative", "relative_p5", "worst_layer",
//  "relative_by_layer": [..], "far", "nats_per_token", "nats_over_dense",
//  "by_distance": [{"from", "wanted", "recall"}]}]}
nlohmann::ordered_json GatingJson(const GatingResult& result);

}  // namespace sluice
