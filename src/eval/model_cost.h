// What a whole model costs at growing depth: prefill and decode, timed, with the bytes and operations that
// each must read and do at least, to be held against the machine's peaks (eval/machine_peaks.h).
//
// The cache is filled up to each depth with random keys and values, and the gates' index with random keys
// around 512 directions, which takes seconds where reading so many tokens takes minutes: a pass's time
// depends on how many keys there are, not on what they say. Then come the passes themselves, on random
// tokens, as a session runs them. Every figure is a median.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/session.h"
#include "eval/machine_peaks.h"
#include "eval/plot.h"
#include "model/model.h"

namespace sluice {

struct ModelCostOptions {
  std::vector<int64_t> depths = {0, 1024, 4096, 16384, 32768, 65536, 131072};  // Tokens in the cache.
  int64_t prefill_tokens = 512;                                                // In one pass; 0: no prefill.
  int64_t decode_tokens = 64;  // One pass each; 0: no decoding.
  int repeats = 5;             // Of a prefill.
  double seconds = 20;         // A step that takes longer is not repeated further.
  AttentionMode attention = AttentionMode::kSparse;
  int64_t top_k = 0;  // 0: the model's own number.
  GateIndex index = GateIndex::kAuto;
  DType cache_format = SessionOptions().cache_format;
  uint64_t seed = 1;
};

// What a pass must read and do at least. Bytes: every weight that is used and every key, value and gate key
// that is read, once, however often the pass uses it. Operations: matrix products, attention and the gates'
// scores, counted as model/flops.h does. Activations, norms and the sorting of a tree are left out.
struct PassWork {
  double weight_bytes = 0;
  double cache_bytes = 0;
  double float_ops = 0;
  double bfloat16_ops = 0;  // Attention's, over keys and values in bfloat16.
  double int8_ops = 0;

  double bytes() const { return weight_bytes + cache_bytes; }
  double ops() const { return float_ops + bfloat16_ops + int8_ops; }
  // Seconds that it takes at the machine's peaks.
  double MemorySeconds(const MachinePeaks& peaks) const { return bytes() / peaks.read_bytes; }
  double ComputeSeconds(const MachinePeaks& peaks) const {
    return float_ops / peaks.float_ops + bfloat16_ops / peaks.bfloat16_ops + int8_ops / peaks.int8_ops;
  }
};

struct ModelCostRow {
  std::string step;    // "decode" or "prefill"
  int64_t depth = 0;   // Tokens in the cache before the first pass.
  int64_t tokens = 0;  // Of one pass.
  double seconds = 0;  // Of one pass: the median.
  PassWork work;       // Of one pass.

  double tokens_per_second() const { return static_cast<double>(tokens) / seconds; }
};

// In which everything was measured.
struct ModelCostReport {
  std::string model;    // Its name or folder.
  std::string weights;  // "q8", ...
  int64_t parameters = 0;
  int64_t weight_bytes = 0;
  ModelCostOptions options;
  MachinePeaks peaks;
  std::vector<ModelCostRow> rows;
};

// Rows by depth, ascending; decode before prefill. The machine's peaks are sampled at each depth. `progress`
// gets (done, total) steps. Throws InputError for options that do not fit the model.
std::vector<ModelCostRow> MeasureModel(const Model& model, const ModelCostOptions& options, PeakMeter& peaks,
                                       const std::function<void(int64_t done, int64_t total)>& progress = {});

std::string ModelCostTable(const ModelCostReport& report);
// {"threads", "model", "weights", "attention", "top_k", "index", "cache_format",
// "parameters", "weight_bytes", "peaks":
// {"read_bytes_per_second", "float_ops_per_second", "bfloat16_ops_per_second", "int8_ops_per_second"},
// "rows": [{"step", "depth", "tokens", "seconds", "tokens_per_second", "weight_bytes", "cache_bytes",
// "float_ops", "bfloat16_ops", "int8_ops", "share_of_read", "share_of_compute"}]}
nlohmann::ordered_json ModelCostJson(const ModelCostReport& report);
// The roofline, and tokens per second by depth.
std::vector<LinePlot> ModelCostPlots(const ModelCostReport& report);

}  // namespace sluice
