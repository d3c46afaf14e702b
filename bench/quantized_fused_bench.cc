// What fusing gains: norm and projections, and the experts of a layer, in one op each against the single ops,
// with 8-bit weights. Shapes are those of models/nano and of a model of hidden size 768 with 16 experts of
// 1,024. Layers take turns, as many as a model has, so that weights lie where they would in a pass. Compare
// within one run only.
#include <array>
#include <memory>
#include <vector>

#include "products.h"
#include "quantized_matrices.h"

namespace sluice {
namespace {

constexpr auto kFormat = WeightFormat::kQ8;

struct LayerShape {
  int64_t hidden, query, key, experts, size, shared;
  int64_t num_layers;
};
constexpr LayerShape kNano = {256, 512, 64, 8, 128, 256, 6};
constexpr LayerShape kMedium = {768, 768, 256, 16, 1024, 1024, 4};

struct Layer {
  explicit Layer(const LayerShape& s)
      : q(RandomMatrix(kFormat, 1, s.query, s.hidden)),
        k(RandomMatrix(kFormat, 1, s.key, s.hidden)),
        v(RandomMatrix(kFormat, 1, s.key, s.hidden)),
        gate_up(RandomMatrix(kFormat, s.experts, 2 * s.size, s.hidden)),
        down(RandomMatrix(kFormat, s.experts, s.hidden, s.size)),
        shared_gate_up(RandomMatrix(kFormat, 1, 2 * s.shared, s.hidden)),
        shared_down(RandomMatrix(kFormat, 1, s.hidden, s.shared)) {}
  QuantizedMatrixBuffer q, k, v, gate_up, down, shared_gate_up, shared_down;
};

// Arguments: tokens, threads.
class Bench {
 public:
  Bench(benchmark::State& state, const LayerShape& shape)
      : state_(state), shape_(shape), tokens_(state.range(0)), ops_(MakeOps("cpu")) {
    SetNumThreads(static_cast<int>(state.range(1)));
    for (int64_t i = 0; i < shape.num_layers; ++i) layers_.emplace_back(shape);
  }
  ~Bench() {
    state_.counters["tokens/s"] =
        benchmark::Counter(static_cast<double>(tokens_), benchmark::Counter::kIsIterationInvariantRate);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  const Layer& NextLayer() { return layers_[next_++ % layers_.size()]; }
  Buffer Rows(int64_t size) const { return RandomBuffer({tokens_, size}); }
  Ops& ops() { return *ops_; }
  const LayerShape& shape() const { return shape_; }
  int64_t tokens() const { return tokens_; }

 private:
  benchmark::State& state_;
  LayerShape shape_;
  int64_t tokens_;
  std::unique_ptr<Ops> ops_;
  std::vector<Layer> layers_;
  size_t next_ = 0;
};

void BM_Projections(benchmark::State& state, const LayerShape& shape, bool fused) {
  Bench bench(state, shape);
  const Buffer x = bench.Rows(shape.hidden), normed = bench.Rows(shape.hidden),
               weight = RandomBuffer({shape.hidden});
  const Buffer q = bench.Rows(shape.query), k = bench.Rows(shape.key), v = bench.Rows(shape.key);
  for (auto _ : state) {
    const Layer& layer = bench.NextLayer();
    const RmsNormArgs norm = {x, weight, 1e-6, normed};
    if (fused) {
      bench.ops().RmsNormMatMuls({norm, {{layer.q.view(), q}, {layer.k.view(), k}, {layer.v.view(), v}}});
      continue;
    }
    bench.ops().RmsNorm(norm);
    bench.ops().QuantizedMatMul({normed, layer.q.view(), q});
    bench.ops().QuantizedMatMul({normed, layer.k.view(), k});
    bench.ops().QuantizedMatMul({normed, layer.v.view(), v});
  }
}

// Two random experts for each token, in rows sorted by expert.
struct Routing {
  Routing(Ops& ops, int64_t tokens, int64_t experts)
      : offsets(DType::kI32, {experts + 1}),
        row_token(DType::kI32, {2 * tokens}),
        token_row(DType::kI32, {tokens, 2}) {
    const Buffer choices(DType::kI32, {tokens, 2});
    Random random(3);
    for (int64_t i = 0; i < 2 * tokens; ++i) {
      choices.view().data<int32_t>()[i] = static_cast<int32_t>(random.Below(static_cast<uint64_t>(experts)));
    }
    ops.PlanDispatch({choices, offsets, row_token, token_row});
  }
  Buffer offsets, row_token, token_row;
};

void BM_FeedForward(benchmark::State& state, const LayerShape& shape, bool fused) {
  Bench bench(state, shape);
  Ops& ops = bench.ops();
  const int64_t rows = 2 * bench.tokens();
  const Routing routing(ops, bench.tokens(), shape.experts);
  const Buffer x = bench.Rows(shape.hidden), out = bench.Rows(shape.hidden);
  const Buffer dispatched = RandomBuffer({rows, shape.hidden}), outputs = RandomBuffer({rows, shape.hidden});
  const Buffer gate_up = RandomBuffer({rows, 2 * shape.size}), activated = RandomBuffer({rows, shape.size});
  const Buffer shared_gate_up = bench.Rows(2 * shape.shared), shared_activated = bench.Rows(shape.shared);
  for (auto _ : state) {
    const Layer& layer = bench.NextLayer();
    if (fused) {
      ops.QuantizedFeedForward({x,
                                {layer.gate_up.view(), layer.down.view()},
                                {layer.shared_gate_up.view(), layer.shared_down.view()},
                                routing.offsets,
                                routing.token_row,
                                outputs,
                                out});
      continue;
    }
    ops.Dispatch({x, routing.row_token, dispatched});
    ops.GroupedQuantizedMatMul({dispatched, layer.gate_up.view(), routing.offsets, gate_up});
    ops.SwiGlu({gate_up, activated});
    ops.GroupedQuantizedMatMul({activated, layer.down.view(), routing.offsets, outputs});
    ops.QuantizedMatMul({x, layer.shared_gate_up.view(), shared_gate_up});
    ops.SwiGlu({shared_gate_up, shared_activated});
    ops.QuantizedMatMul({shared_activated, layer.shared_down.view(), out});
  }
}

void Sizes(benchmark::internal::Benchmark* bench) {
  for (const int64_t threads : {1, 2}) bench->Args({1, threads})->Args({512, threads});
  bench->UseRealTime()->MinTime(0.2);
}

BENCHMARK_CAPTURE(BM_Projections, nano_single_ops, kNano, false)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_Projections, nano_fused, kNano, true)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_FeedForward, nano_single_ops, kNano, false)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_FeedForward, nano_fused, kNano, true)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_Projections, medium_single_ops, kMedium, false)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_Projections, medium_fused, kMedium, true)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_FeedForward, medium_single_ops, kMedium, false)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_FeedForward, medium_fused, kMedium, true)->Apply(Sizes);

}  // namespace
}  // namespace sluice
