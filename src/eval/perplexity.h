// Perplexity: documents are cut into windows of `context` tokens, each read on its own; every token but a
// window's first is predicted.
//   nats per token L = mean of −ln p;  perplexity = e^L;  bits per byte = Σ −log2 p / bytes predicted
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/guarantee_figures.h"
#include "engine/session.h"

namespace sluice {

struct PerplexityOptions {
  int64_t context = 16384;
  int64_t max_tokens = 0;  // Stop after this many; 0: read everything.
  SessionOptions session;  // `capacity` is set to the context.
};

struct PerplexityResult {
  AttentionMode attention = AttentionMode::kSparse;
  double nats = 0;  // Sum over predicted tokens.
  int64_t tokens = 0;
  int64_t bytes = 0;
  double selected_keys = 0;  // Per query, mean over layers; 0 for dense attention.
  double seconds = 0;
  std::optional<GuaranteeFigures> guarantee;  // Where one was asked for.
  // Sum of nats and number of tokens by place in the window: bucket b holds places [2^b, 2^(b+1)).
  std::vector<double> bucket_nats;
  std::vector<int64_t> bucket_tokens;

  double nats_per_token() const { return tokens > 0 ? nats / static_cast<double>(tokens) : 0; }
  double perplexity() const;
  double bits_per_byte() const;
};

// `progress` gets (done, total) tokens.
PerplexityResult RunPerplexity(const Engine& engine, const std::vector<std::string>& texts,
                               const PerplexityOptions& options, const Session::Progress& progress = {});

std::string PerplexityTable(const std::vector<PerplexityResult>& results);
// {"context", "results": [{"attention", "tokens", "bytes", "nats_per_token", "perplexity",
//  "bits_per_byte", "selected_keys", "seconds", "by_position": [{"from", "tokens", "nats_per_token"}],
//  "guarantee": GuaranteeFigures::Json(), where one was asked for}],
//  "sparse_to_dense": perplexity ratio − 1, where both were run}
nlohmann::ordered_json PerplexityJson(const std::vector<PerplexityResult>& results, int64_t context);

// Relative difference of perplexity, sparse against dense; 0 unless `results` holds both.
double SparseToDense(const std::vector<PerplexityResult>& results);

}  // namespace sluice
