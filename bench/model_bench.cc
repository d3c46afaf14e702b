// The whole model, at the size of configs/nano_logn.json with random weights: what a training step reaches
// of the machine's float32 GEMM peak, and prefill and decode at growing depth. Ratios within one run
// are what counts: the machine's peak is measured here too, by OpenBLAS on every thread at once.
#include <benchmark/benchmark.h>
#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "base/random.h"
#include "base/threads.h"
#include "engine/session.h"
#include "eval/median.h"
#include "model/flops.h"
#include "model/model.h"
#include "model/quantize.h"
#include "tensor/host.h"
#include "train/optimizer.h"
#include "train/train_config.h"

namespace sluice {
namespace {

TrainConfig NanoConfig() {
  return ReadTrainConfig(std::filesystem::path(SLUICE_CONFIGS_DIR) / "nano_logn.json");
}

std::vector<int32_t> RandomTokens(int64_t count, int64_t vocab) {
  Random random(1);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(random.Below(static_cast<uint64_t>(vocab))));
  }
  return tokens;
}

// GFLOP/s of square products by OpenBLAS, one on every thread: the best of several.
double GemmPeak() {
  constexpr int64_t kSize = 768;
  const int threads = NumThreads();
  std::vector<std::vector<float>> a, b, c;
  for (int i = 0; i < threads; ++i) {
    for (auto* matrices : {&a, &b, &c}) matrices->emplace_back(static_cast<size_t>(kSize * kSize), 0.5f);
  }
  double best = 0;
  for (int repeat = 0; repeat < 8; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    ParallelFor(threads, [&](int64_t i) {
      const auto t = static_cast<size_t>(i);
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, kSize, kSize, kSize, 1, a[t].data(), kSize,
                  b[t].data(), kSize, 0, c[t].data(), kSize);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, 2e-9 * threads * kSize * kSize * kSize / seconds.count());
  }
  return best;
}

// One optimiser step per iteration: forward, backward, Muon and AdamW, on whole rows of random tokens.
void BM_TrainingStep(benchmark::State& state, AttentionMode attention) {
  constexpr int64_t kBatchTokens = 8192;
  const int64_t length = state.range(0);
  const TrainConfig config = NanoConfig();
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  Model model(config.model, *ops);
  model.table().Initialize(model.parameters(), 1);
  Optimizer optimizer(model, config.optimizer);
  const Buffer gradient(DType::kF32, {model.table().num_elements()});
  std::vector<int32_t> tokens = RandomTokens(kBatchTokens, config.model.vocab_size);
  std::vector<int32_t> positions, starts;
  for (int64_t t = 0; t < kBatchTokens; ++t) {
    positions.push_back(static_cast<int32_t>(t % length));
    starts.push_back(static_cast<int32_t>(t - t % length));
  }
  const Buffer weights(DType::kF32, {kBatchTokens});
  for (int64_t t = 0; t < kBatchTokens; ++t) StoreElement(weights, t, 1.0 / kBatchTokens);
  TrainingBatch batch;
  batch.tokens = {TensorView::Of(tokens.data(), {kBatchTokens}),
                  TensorView::Of(positions.data(), {kBatchTokens}),
                  TensorView::Of(starts.data(), {kBatchTokens}), length};
  batch.targets = TensorView::Of(tokens.data(), {kBatchTokens});
  batch.weights = weights;
  PassOptions options;
  options.attention = attention;
  options.top_k = config.model.top_k;
  options.router = config.router.loss;
  options.gate.kl_weight = attention == AttentionMode::kSparse ? 0.1 : 0;
  options.gate.num_extra = 64;
  Arena arena;
  PassSaved saved;
  int64_t step = 0;
  const auto train = [&] {
    gradient.view().Zero();
    model.ForwardLoss(arena, batch, options, saved);
    model.Backward(arena, batch, options, saved, gradient);
    optimizer.Step(gradient, ++step, 0.01, false);
  };
  train();  // Memory is taken in the first step.
  const double peak = GemmPeak();
  for (auto _ : state) train();

  double keys = 0;
  const int64_t most = config.model.window + config.model.num_sinks + config.model.top_k;
  for (int64_t p = 0; p < length; ++p) {
    keys += static_cast<double>(attention == AttentionMode::kDense ? p + 1 : std::min(p + 1, most));
  }
  keys /= static_cast<double>(length);
  const double flops = TrainingFlopsPerToken(config.model, model.table().num_active_elements(), keys);
  const auto per_iteration = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["tokens/s"] = benchmark::Counter(kBatchTokens, per_iteration);
  state.counters["share_of_peak"] = benchmark::Counter(flops * kBatchTokens / (peak * 1e9), per_iteration);
  state.counters["peak_GFLOP/s"] = peak;
}

// A model with a cache that it extends with random tokens.
class Timeline {
 public:
  Timeline(Ops& ops, Model& model, int64_t top_k, int64_t capacity, bool with_trees)
      : model_(model),
        tokens_(RandomTokens(capacity, model.config().vocab_size)),
        cache_(ops, Shape(model, with_trees), capacity),
        logits_(DType::kF32, {1, model.config().vocab_size}) {
    options_.top_k = top_k;
  }

  // Seconds of adding `count` tokens at once.
  double Extend(int64_t count) {
    const auto start = std::chrono::steady_clock::now();
    const TimelinePart part = {TensorView::Of(tokens_.data() + cache_.num_tokens(), {count}), &options_,
                               &cache_, nullptr, 1};
    model_.Extend(memory_, {&part, 1}, logits_);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  double Prefill(int64_t depth) {
    constexpr int64_t kChunk = 512;
    double seconds = 0;
    while (cache_.num_tokens() < depth) seconds += Extend(std::min(kChunk, depth - cache_.num_tokens()));
    return seconds;
  }

 private:
  static KvCacheShape Shape(Model& model, bool with_trees) {
    KvCacheShape shape = model.CacheShape();
    shape.format = SessionOptions().cache_format;
    if (with_trees) shape.tree_group = KvCacheShape::kTreeGroup;
    return shape;
  }

  Model& model_;
  std::vector<int32_t> tokens_;
  KvCache cache_;
  Buffer logits_;
  PassOptions options_;
  PassMemory memory_;
};

// Fills a cache to `depth`, then decodes in turns there and at depth 1,000, so that both meet the same
// neighbours: tokens/s by the median of many tokens, and the ratio. With trees the gate searches them where
// that is the faster way, else it scans all keys.
void BM_PrefillAndDecode(benchmark::State& state, bool with_trees) {
  constexpr int64_t kShallow = 1000;
  constexpr int64_t kTurns = 64;
  constexpr int64_t kTurnTokens = 32;
  const int64_t depth = state.range(0);
  const TrainConfig config = NanoConfig();
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  Model model(config.model, *ops);
  model.table().Initialize(model.parameters(), 1);
  for (auto _ : state) {
    Timeline shallow(*ops, model, config.model.top_k, kShallow + kTurns * kTurnTokens, with_trees);
    Timeline deep(*ops, model, config.model.top_k, depth + kTurns * kTurnTokens, with_trees);
    shallow.Prefill(kShallow);
    const double prefill = deep.Prefill(depth);
    std::vector<double> shallow_seconds, deep_seconds;
    for (int64_t turn = 0; turn < kTurns; ++turn) {
      for (int64_t i = 0; i < kTurnTokens; ++i) shallow_seconds.push_back(shallow.Extend(1));
      for (int64_t i = 0; i < kTurnTokens; ++i) deep_seconds.push_back(deep.Extend(1));
    }
    state.SetIterationTime(prefill);
    state.counters["prefill_tokens/s"] = static_cast<double>(depth) / prefill;
    state.counters["decode_tokens/s"] = 1 / Median(deep_seconds);
    state.counters["share_of_decode_at_1000"] = Median(shallow_seconds) / Median(deep_seconds);
  }
}

// The same model in floats and in 8 bits, chunk by chunk and token by token in turns, so that both meet the
// same neighbours: tokens/s of both, and the ratio of the medians.
void BM_FloatsAgainst8Bits(benchmark::State& state) {
  constexpr int64_t kChunk = 512;
  constexpr int64_t kDecoded = 1024;
  const int64_t depth = state.range(0);
  const TrainConfig config = NanoConfig();
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  Model floats(config.model, *ops);
  floats.table().Initialize(floats.parameters(), 1);
  const std::unique_ptr<Model> quantized = QuantizeModel(floats, {});
  for (auto _ : state) {
    Timeline in_floats(*ops, floats, config.model.top_k, depth + kDecoded, false);
    Timeline in_8_bits(*ops, *quantized, config.model.top_k, depth + kDecoded, false);
    std::vector<double> floats_prefill, prefill, floats_decode, decode;
    for (int64_t done = 0; done < depth; done += kChunk) {
      floats_prefill.push_back(in_floats.Extend(kChunk));
      prefill.push_back(in_8_bits.Extend(kChunk));
    }
    for (int64_t done = 0; done < kDecoded; ++done) {
      floats_decode.push_back(in_floats.Extend(1));
      decode.push_back(in_8_bits.Extend(1));
    }
    state.counters["prefill_tokens/s"] = kChunk / Median(prefill);
    state.counters["prefill_over_floats"] = Median(floats_prefill) / Median(prefill);
    state.counters["decode_tokens/s"] = 1 / Median(decode);
    state.counters["decode_over_floats"] = Median(floats_decode) / Median(decode);
  }
}

BENCHMARK_CAPTURE(BM_TrainingStep, dense, AttentionMode::kDense)
    ->Arg(512)
    ->UseRealTime()
    ->Iterations(5)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_TrainingStep, sparse, AttentionMode::kSparse)
    ->Arg(4096)
    ->UseRealTime()
    ->Iterations(3)
    ->Unit(benchmark::kMillisecond);
void Depths(benchmark::internal::Benchmark* benchmark) {
  benchmark->Arg(16384)->Arg(131072)->UseManualTime()->Iterations(1)->Unit(benchmark::kSecond);
}
BENCHMARK_CAPTURE(BM_PrefillAndDecode, auto, true) -> Apply(Depths);
BENCHMARK_CAPTURE(BM_PrefillAndDecode, flat, false)->Apply(Depths);
BENCHMARK(BM_FloatsAgainst8Bits)->Arg(4096)->Iterations(1)->UseRealTime()->Unit(benchmark::kSecond);

}  // namespace
}  // namespace sluice
