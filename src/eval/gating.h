// How well the gate chooses, on real documents: figures of it and of its controls (selectors.h).
//   recall, retained and relative mass, all of it by distance too: gate_mass.h, on queries spread over
//       the document's last `scored` tokens
//   loss: nats per token of those tokens, against all keys with the same weights
//   answers, of documents with a question: loss of the right answer, share of right answers
// A document's earlier part is read once, with the gate, and every selector goes on from the same cache:
// what is compared is the reading of the last tokens alone, and of the question behind them. The earlier
// part ends where the cache can return to, up to a page (KvCache::kPageTokens) before the scored tokens.
//
// Documents are read as far as `length`, and left out if they are shorter. One with a question is read
// whole instead; if it is longer than `length`, its middle is left out, as LongBench does.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/session.h"
#include "eval/documents.h"
#include "eval/gate_mass.h"
#include "eval/plot.h"

namespace sluice {

struct GatingOptions {
  std::vector<std::string> selectors = {"gate", "random", "recent", "oracle"};  // Of SelectorNames().
  int64_t length = 32768;  // Tokens of a document that are read.
  int64_t documents = 8;   // At most.
  int64_t scored = 512;
  int64_t queries = 32;  // Per document; in every layer.
  uint64_t seed = 1;
  SessionOptions session;  // `capacity` is set to what the documents need.
};

// An answer to choose is right if its text is the choice of lowest loss per token; a free one if what the
// model writes holds one of the wanted answers. The loss is that of the right choice, or of the likeliest
// of the wanted answers.
struct AnswerFigures {
  int64_t questions = 0;
  int64_t right = 0;
  double nats = 0;
  int64_t tokens = 0;

  // 0 without questions.
  double accuracy() const;
  double nats_per_token() const;
};

struct GatingRow {
  std::string selector;  // "dense": all keys; its mass has no samples.
  GateMassSummary mass;
  double nats = 0;  // Per scored token.
  AnswerFigures answers;
};

struct GatingResult {
  GatingOptions options;
  int64_t documents = 0;  // Read.
  GatingRow dense;
  std::vector<GatingRow> rows;
  double seconds = 0;

  // Of a row against dense: perplexity ratio − 1.
  double PerplexityOverDense(const GatingRow& row) const;
  // Retained mass of "gate" over that of "flat", what its index left of it; nothing unless both were run.
  std::optional<double> GateOverFlat() const;
};

// `progress` gets (done, total) tokens. Throws InputError if no document is long enough, or for options
// that do not fit the model or each other.
GatingResult RunGating(const Engine& engine, const std::vector<EvalDocument>& documents,
                       const GatingOptions& options, const Session::Progress& progress = {});

// One row per selector, one per selector for answers if there are questions, then by distance.
std::string GatingTable(const GatingResult& result);
// {"length", "documents", "scored", "queries", "top_k", "seed", "seconds", "dense": {"nats_per_token",
//  "perplexity", answers}, "selectors": [{"selector", "samples", "keys", "recall", "far", figures,
//  "relative_by_layer": [..], "nats_per_token", "perplexity", "nats_over_dense", "perplexity_over_dense",
//  answers, "by_distance": [{"from", "wanted", "recall", figures}]}], "gate_over_flat"}
// figures: "retained" and "relative", each {"mean", "p5", "worst_layer"}. answers, where there are
// questions: "questions", "answer_accuracy", "answer_nats_per_token".
nlohmann::ordered_json GatingJson(const GatingResult& result);
// Recall and relative mass by distance, and relative mass by layer.
std::vector<LinePlot> GatingPlots(const GatingResult& result);

}  // namespace sluice
