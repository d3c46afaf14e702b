// What attention costs at growing length, method by method: time and counted work of one decoded token and
// of a whole prefill, in all layers, selection included. Projections and the gate's MLP, whose cost per
// token does not grow, are left out of times and attention's FLOPs.
//
// One layer and one gate are run on random keys and queries of the model's shape, keys and values in bfloat16
// as sessions keep them, and their times multiplied by the number of layers and gates. A prefill is run
// whole, in chunks, where it is expected to take at most `prefill_seconds`; else its time is the integral
// over positions of measured costs per query (at powers of two and the length itself, straight lines between)
// and marked as estimated. Compare within one run only.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/session.h"
#include "eval/plot.h"
#include "model/config.h"

namespace sluice {

struct AttentionCostOptions {
  std::vector<std::string> methods;
  std::vector<int64_t> lengths = {4096, 16384, 65536, 131072, 524288, 1048576};
  int64_t top_k = 0;            // 0: the model's own number.
  double prefill_seconds = 30;  // Longer ones are estimated.
  uint64_t seed = 1;
};

// Counted as model/flops.h does.
struct CountedFlops {
  double floats = 0;  // Float operations.
  double int8 = 0;    // Those of the gate's scan or search.
  double total() const { return floats + int8; }
};

struct AttentionCostRow {
  std::string method;
  int64_t length = 0;
  double query_seconds = 0;  // The last of `length` tokens, decoded alone: the median of several.
  CountedFlops query;
  double prefill_seconds = 0;  // Of all `length` tokens.
  bool prefill_estimated = false;
  CountedFlops prefill;
  // The whole model's, prefill: attention and all matrix products; the head's for the last token alone.
  double model_flops = 0;
};

// "dense": all keys. "flat": the gate scans all keys, attention reads the best. "tree": the gate searches its
// tree at every length; a prefill's time has the sorting of keys in it. "guarantee": flat, and then blocks of
// keys until at most 1% of any head's softmax is missed; on random keys, which no block's centre tells apart,
// that is nearly all of them: the worst case.
const std::vector<std::string>& AttentionMethodNames();

// `progress` gets (done, total) tokens of work, roughly. Throws InputError for an unknown method, a length
// below 2 or above 2^24, or a number of keys below 0.
std::vector<AttentionCostRow> MeasureAttention(const ModelConfig& config, const AttentionCostOptions& options,
                                               const Session::Progress& progress = {});

std::string AttentionCostTable(const std::vector<AttentionCostRow>& rows);
// method,length,query_seconds,query_flops,query_int8_ops,prefill_seconds,prefill_estimated,prefill_flops,
// prefill_int8_ops,model_flops
std::string AttentionCostCsv(const std::vector<AttentionCostRow>& rows);
// {"threads", "top_k", "rows": [the columns of the CSV]}
nlohmann::ordered_json AttentionCostJson(const std::vector<AttentionCostRow>& rows, int64_t top_k);
// Time and FLOPs of a query, and time of a prefill, by length.
std::vector<LinePlot> AttentionCostPlots(const std::vector<AttentionCostRow>& rows);

}  // namespace sluice
