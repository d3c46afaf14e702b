#include "eval/model_cost.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>
#include <span>

#include "backend/cpu/bfloat16_attention.h"
#include "base/error.h"
#include "base/interrupt.h"
#include "base/random.h"
#include "eval/median.h"
#include "eval/pass_figures.h"
#include "eval/random_cache.h"
#include "model/flops.h"

namespace sluice {

namespace {

int64_t BytesPerGateKey(const ModelConfig& config) {
  return config.gate.head_dim + static_cast<int64_t>(sizeof(uint16_t));  // Codes and the scale.
}

// Counts what a pass reads and does.
class WorkCounter : public PassFigures {
 public:
  WorkCounter(const Model& model, DType cache_format)
      : PassFigures(model.config()),
        model_(model),
        cache_format_(cache_format),
        expert_rows_(static_cast<size_t>(model.config().num_layers)),
        experts_used_(static_cast<size_t>(model.config().num_layers)) {}

  void OnRouting(const RoutingStep& step) override {
    const auto layer = static_cast<size_t>(step.layer);
    std::set<int32_t> used;
    const int32_t* experts = step.experts.data<int32_t>();
    for (int64_t i = 0; i < step.experts.num_elements(); ++i) {
      if (experts[i] < 0) continue;  // Not served.
      ++expert_rows_[layer];
      used.insert(experts[i]);
    }
    experts_used_[layer] += std::ssize(used);
  }

  // Of the one pass that was watched: `tokens` at `depth`, with logits of the last.
  PassWork Work(int64_t depth, int64_t tokens) const {
    PassWork work;
    CountWeights(tokens, work);
    const ModelConfig& config = model_.config();
    const auto keys = static_cast<double>(depth + tokens);
    const double bytes_per_key =
        KvBytesPerToken(config, config.num_kv_heads, cache_format_) / static_cast<double>(config.num_layers);
    const bool in_pairs = cache_format_ == DType::kBF16 && config.head_dim % kBFloat16HeadUnit == 0;
    for (const LayerFigures& layer : layers()) {
      work.cache_bytes += bytes_per_key * std::min(layer.attended_keys, keys);
      work.cache_bytes += static_cast<double>(BytesPerGateKey(config)) * std::min(layer.scanned_keys, keys);
      (in_pairs ? work.bfloat16_ops : work.float_ops) += layer.attended_keys * AttentionFlopsPerKey(config);
      work.int8_ops += layer.scanned_keys * GateScanFlopsPerKey(config);
    }
    return work;
  }

 private:
  void CountWeights(int64_t tokens, PassWork& work) const {
    size_t layer = 0;
    for (const ParameterInfo& parameter : model_.table().parameters()) {
      const bool is_expert = parameter.num_experts() > 1;
      const bool is_table = parameter.name == "model.embed_tokens.weight";
      double share = 1, rows = static_cast<double>(tokens);
      if (is_table) rows = 1;  // The head's; a token's own row is nothing beside it.
      if (is_expert) {
        // Experts are declared twice in every layer, in the order of layers.
        const size_t i = layer++ / 2;
        share = static_cast<double>(experts_used_[i]) / static_cast<double>(parameter.num_experts());
        rows = static_cast<double>(expert_rows_[i]) / static_cast<double>(parameter.num_experts());
      }
      work.weight_bytes += share * static_cast<double>(parameter.num_bytes());
      const bool is_product = parameter.is_matrix || parameter.name.ends_with("router.weight");
      if (!is_product) continue;
      const double ops = 2 * rows * static_cast<double>(parameter.shape.num_elements());
      (HasBlocks(parameter.format) ? work.int8_ops : work.float_ops) += ops;
    }
  }

  const Model& model_;
  const DType cache_format_;
  std::vector<int64_t> expert_rows_;
  std::vector<int64_t> experts_used_;
};

// A cache that passes extend with random tokens, at one depth after the other.
class Timeline {
 public:
  Timeline(const Model& model, const ModelCostOptions& options, int64_t capacity)
      : model_(model),
        options_(options),
        cache_(model.ops(), Shape(model, options, capacity), capacity),
        logits_(DType::kF32, {1, model.config().vocab_size}),
        random_(options.seed) {
    pass_.attention = options.attention;
    pass_.top_k = std::min(options.top_k > 0 ? options.top_k : model.config().top_k, capacity);
    if (options.index == GateIndex::kTree) pass_.tree.min_keys = 0;
  }

  void MoveTo(int64_t depth) {
    if (cache_.num_tokens() > depth) cache_.Truncate(depth);
    FillCache(model_.config(), model_.ops(), depth, options_.seed, cache_);
  }

  // Seconds of one pass over `count` tokens.
  double Extend(int64_t count, PassObserver* observer = nullptr) {
    ThrowIfInterrupted();
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    for (int32_t& token : tokens) {
      token = static_cast<int32_t>(random_.Below(static_cast<uint64_t>(model_.config().vocab_size)));
    }
    const auto start = std::chrono::steady_clock::now();
    const TimelinePart part{TensorView::Of(tokens.data(), {count}), &pass_, &cache_, observer, 1};
    model_.Extend(memory_, {&part, 1}, logits_);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const std::span<const float> logits(logits_.view().data<float>(),
                                        static_cast<size_t>(model_.config().vocab_size));
    if (!std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); })) {
      throw InputError("the model's logits are not finite; its weights are damaged");
    }
    return seconds.count();
  }

 private:
  // Trees where a session would keep them (engine/session.h).
  static KvCacheShape Shape(const Model& model, const ModelCostOptions& options, int64_t capacity) {
    KvCacheShape shape = model.CacheShape();
    shape.format = options.cache_format;
    const bool reached =
        options.index == GateIndex::kTree || capacity > TreeOptions().min_keys + shape.window;
    if (options.index != GateIndex::kFlat && reached) shape.tree_group = KvCacheShape::kTreeGroup;
    return shape;
  }

  const Model& model_;
  const ModelCostOptions& options_;
  PassOptions pass_;
  KvCache cache_;
  Buffer logits_;
  PassMemory memory_;
  Random random_;
};

void CheckOptions(const ModelCostOptions& options, int64_t context_length) {
  if (options.depths.empty()) throw InputError("--depths: there is nothing to measure; name at least one");
  if (options.prefill_tokens < 0 || options.prefill_tokens > KvCache::kMaxAppend) {
    throw InputError("--prefill-tokens: {} is outside 0 to {}", options.prefill_tokens, KvCache::kMaxAppend);
  }
  if (options.decode_tokens < 0) {
    throw InputError("--decode-tokens must not be negative; it is {}", options.decode_tokens);
  }
  if (options.prefill_tokens + options.decode_tokens == 0) {
    throw InputError("there is nothing to measure: neither prefill nor decode tokens");
  }
  if (options.repeats < 1) throw InputError("--repeats must be at least 1, not {}", options.repeats);
  const int64_t more = std::max(options.prefill_tokens, options.decode_tokens + 1);
  for (const int64_t depth : options.depths) {
    if (depth < 0)
      throw InputError("--depths: {} is negative; it is the number of tokens in the cache", depth);
    if (depth + more <= context_length) continue;
    throw InputError("--depths: {} tokens and the {} that are run behind them do not fit the model's {}",
                     depth, more, context_length);
  }
}

// Runs the steps of one depth after the other.
class Meter {
 public:
  Meter(const Model& model, const ModelCostOptions& options, int64_t capacity)
      : model_(model), options_(options), timeline_(model, options, capacity) {}

  ModelCostRow Decode(int64_t depth) {
    ModelCostRow row{"decode", depth, 1, 0, {}};
    timeline_.MoveTo(depth);
    row.work = Watched(depth, 1);
    row.seconds = MedianPass(options_.decode_tokens, [&] { return timeline_.Extend(1); });
    return row;
  }

  ModelCostRow Prefill(int64_t depth) {
    const int64_t tokens = options_.prefill_tokens;
    ModelCostRow row{"prefill", depth, tokens, 0, {}};
    timeline_.MoveTo(depth);
    row.work = Watched(depth, tokens);
    row.seconds = MedianPass(options_.repeats, [&] {
      timeline_.MoveTo(depth);
      return timeline_.Extend(tokens);
    });
    return row;
  }

 private:
  // A pass that warms up, and what it has to read and do.
  PassWork Watched(int64_t depth, int64_t tokens) {
    WorkCounter counter(model_, options_.cache_format);
    timeline_.Extend(tokens, &counter);
    return counter.Work(depth, tokens);
  }

  double MedianPass(int64_t repeats, const std::function<double()>& pass) const {
    std::vector<double> seconds;
    double total = 0;
    for (int64_t i = 0; i < repeats && total < options_.seconds; ++i) {
      seconds.push_back(pass());
      total += seconds.back();
    }
    return Median(std::move(seconds));
  }

  const Model& model_;
  const ModelCostOptions& options_;
  Timeline timeline_;
};

}  // namespace

std::vector<ModelCostRow> MeasureModel(const Model& model, const ModelCostOptions& options, PeakMeter& peaks,
                                       const std::function<void(int64_t done, int64_t total)>& progress) {
  CheckOptions(options, model.config().context_length);
  std::vector<int64_t> depths = options.depths;
  std::sort(depths.begin(), depths.end());
  depths.erase(std::unique(depths.begin(), depths.end()), depths.end());
  Meter meter(model, options, depths.back() + std::max(options.prefill_tokens, options.decode_tokens + 1));
  const auto total = 3 * std::ssize(depths);
  int64_t done = 0;
  const auto report = [&] {
    if (progress) progress(done, total);
    ++done;
  };
  report();
  std::vector<ModelCostRow> rows;
  for (const int64_t depth : depths) {
    peaks.Sample();
    report();
    if (options.decode_tokens > 0) rows.push_back(meter.Decode(depth));
    report();
    if (options.prefill_tokens > 0) rows.push_back(meter.Prefill(depth));
    report();
  }
  return rows;
}

}  // namespace sluice
