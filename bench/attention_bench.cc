// Speed of attention and of the gate on the shapes of models/nano: 8 query heads on one key/value head
// of size 64, window 128, 4 sinks, 4 gate heads of size 32. Attention is in GFLOP/s of the products
// that it needs (2 per multiply-add, exp not counted), selection in nanoseconds per query and key.
// One thread; BM_Peak of matmul_bench is what the GFLOP/s compare with. Compare within one run only.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "base/random.h"
#include "base/threads.h"
#include "tensor/tensor.h"

namespace sluice {
namespace {

constexpr int64_t kHeads = 8;
constexpr int64_t kSize = 64;
constexpr int64_t kGateSize = 32;
constexpr int64_t kGateHeads = 4;
constexpr int64_t kWindow = 128;
constexpr int64_t kSinks = 4;

Buffer RandomBuffer(Shape shape) {
  Buffer buffer(DType::kF32, shape);
  Random random(7);
  for (float& value : std::span(buffer.view().data<float>(), static_cast<size_t>(shape.num_elements()))) {
    value = static_cast<float>(random.Uniform() - 0.5);
  }
  return buffer;
}

// `tokens` queries that are the last of as many keys, or of `keys`, in documents of `segment` tokens.
struct Problem {
  int64_t tokens;
  int64_t keys;
  std::unique_ptr<Ops> ops = MakeOps("cpu");
  Buffer segment_start, q, q_rot, k, k_rot, v, sink_logit, out, lse, dout;
  Buffer dq, dq_rot, dk, dk_rot, dv, dsink_logit;
  AttentionInputs in;
  AttentionInputGrads grads;
  double visible = 0;  // Σ over queries of the keys they see.
  double far = 0;      // Without window and sinks.

  Problem(int64_t num_tokens, int64_t num_keys, int64_t segment)
      : tokens(num_tokens),
        keys(num_keys),
        segment_start(DType::kI32, {tokens}),
        q(RandomBuffer({tokens, kHeads, kSize})),
        q_rot(RandomBuffer({tokens, kHeads, kSize})),
        k(RandomBuffer({keys, 1, kSize})),
        k_rot(RandomBuffer({keys, 1, kSize})),
        v(RandomBuffer({keys, 1, kSize})),
        sink_logit(RandomBuffer({kHeads})),
        out(RandomBuffer({tokens, kHeads, kSize})),
        lse(RandomBuffer({tokens, kHeads})),
        dout(RandomBuffer({tokens, kHeads, kSize})),
        dq(RandomBuffer({tokens, kHeads, kSize})),
        dq_rot(RandomBuffer({tokens, kHeads, kSize})),
        dk(RandomBuffer({keys, 1, kSize})),
        dk_rot(RandomBuffer({keys, 1, kSize})),
        dv(RandomBuffer({keys, 1, kSize})),
        dsink_logit(RandomBuffer({kHeads})) {
    SetNumThreads(1);
    in = {q,          q_rot, k.view(),
          k_rot,      0,     v.view(),
          sink_logit, {},    {keys - tokens, segment_start, kWindow, kSinks}};
    grads = {dq, dq_rot, dk, dk_rot, dv, dsink_logit, {}, {}};
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t position = in.span.Position(t);
      segment_start.view().data<int32_t>()[t] = static_cast<int32_t>(position - position % segment);
      visible += static_cast<double>(position - in.span.First(t) + 1);
      far += static_cast<double>(in.span.NumFar(t));
    }
  }

  // `products` multiply-adds of a row of keys or values with a row per head.
  void ReportFlops(benchmark::State& state, double keys_seen, double products) const {
    state.counters["GFLOP/s"] = benchmark::Counter(keys_seen * products * 2 * kHeads * kSize * 1e-9,
                                                   benchmark::Counter::kIsIterationInvariantRate);
  }
};

// Distinct random far keys, every part ascending; runs of 8 neighbours as a trained gate picks them.
Buffer RandomCandidates(const AttentionSpan& span, int64_t tokens, int64_t width, int64_t num_selected) {
  Buffer candidates(DType::kI32, {tokens, width});
  Random random(3);
  for (int64_t t = 0; t < tokens; ++t) {
    int32_t* row = candidates.view().row<int32_t>(t);
    std::fill_n(row, width, -1);
    const int64_t runs = std::min(span.NumFar(t), width) / 8;
    const auto stride = static_cast<uint64_t>(runs > 0 ? span.NumFar(t) / runs : 8);
    for (int64_t run = 0; run < runs; ++run) {
      const auto begin = static_cast<int64_t>(static_cast<uint64_t>(run) * stride + random.Below(stride - 7));
      for (int64_t i = 0; i < 8; ++i) row[run * 8 + i] = static_cast<int32_t>(span.SinksEnd(t) + begin + i);
    }
    std::sort(row, row + std::min(num_selected, runs * 8));
  }
  return candidates;
}

double ListedKeys(const Problem& problem, const TensorView& candidates, int64_t columns) {
  double total = 0;
  for (int64_t t = 0; t < problem.tokens; ++t) {
    const int32_t* row = candidates.row<int32_t>(t);
    total += static_cast<double>(std::count_if(row, row + columns, [](int32_t s) { return s >= 0; }));
  }
  return total + problem.visible - problem.far;
}

void BM_FullAttention(benchmark::State& state) {
  const Problem p(state.range(0), state.range(0), state.range(1));
  for (auto _ : state) p.ops->FullAttention({p.in, p.out, p.lse});
  p.ReportFlops(state, p.visible, 2);
}

void BM_FullAttentionGrad(benchmark::State& state) {
  const Problem p(state.range(0), state.range(0), state.range(1));
  p.ops->FullAttention({p.in, p.out, p.lse});
  for (auto _ : state) p.ops->FullAttentionGrad({p.in, p.out, p.lse, p.dout, p.grads});
  p.ReportFlops(state, p.visible, 5);
}

void BM_SparseAttention(benchmark::State& state) {
  const Problem p(state.range(0), state.range(1), state.range(1));
  const Buffer candidates = RandomCandidates(p.in.span, p.tokens, 128, 128);
  for (auto _ : state) p.ops->SparseAttention({p.in, candidates, 128, p.out, {}, {}});
  p.ReportFlops(state, ListedKeys(p, candidates, 128), 2);
}

void BM_SparseAttentionTraining(benchmark::State& state) {
  const Problem p(state.range(0), state.range(0), state.range(1));
  const Buffer candidates = RandomCandidates(p.in.span, p.tokens, 192, 128);
  const Buffer target = RandomBuffer({p.tokens, 192});
  const Buffer mass = RandomBuffer({p.tokens});
  for (auto _ : state) p.ops->SparseAttention({p.in, candidates, 128, p.out, target, mass});
  p.ReportFlops(state, ListedKeys(p, candidates, 192), 2);
}

void BM_SparseAttentionGrad(benchmark::State& state) {
  const Problem p(state.range(0), state.range(0), state.range(1));
  const Buffer candidates = RandomCandidates(p.in.span, p.tokens, 192, 128);
  const Buffer scores = RandomBuffer({p.tokens, 192});
  const Buffer dscores = RandomBuffer({p.tokens, 192});
  const Buffer threshold = RandomBuffer({p.tokens});
  for (auto _ : state) {
    p.ops->SparseAttentionGrad({p.in, candidates, {scores, threshold, 0.5}, p.dout, p.grads, dscores});
  }
  p.ReportFlops(state, ListedKeys(p, candidates, 192), 5);
}

void BM_DenseGateKl(benchmark::State& state) {
  const Problem p(state.range(0), state.range(0), state.range(1));
  const Buffer gq = RandomBuffer({p.tokens, kGateHeads, kGateSize});
  const Buffer gw = RandomBuffer({p.tokens, kGateHeads});
  const Buffer gk = RandomBuffer({p.keys, kGateSize});
  const Buffer dgq = RandomBuffer({p.tokens, kGateHeads, kGateSize});
  const Buffer dgw = RandomBuffer({p.tokens, kGateHeads});
  const Buffer dgk = RandomBuffer({p.keys, kGateSize});
  const Buffer loss = RandomBuffer({p.tokens});
  p.ops->FullAttention({p.in, p.out, p.lse});
  for (auto _ : state) p.ops->DenseGateKl({p.in, p.lse, gq, gw, gk, 0.1, 1, loss, dgq, dgw, dgk});
  p.ReportFlops(state, p.far, 1 + 3.0 * kGateHeads * kGateSize / (kHeads * kSize));
}

void BM_SelectKeys(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const int64_t keys = state.range(1);
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  SetNumThreads(1);
  Buffer gk(DType::kF32, {keys, kGateSize});
  Buffer gq(DType::kF32, {tokens, kGateHeads, kGateSize});
  Buffer gw(DType::kF32, {tokens, kGateHeads});
  Random random(11);
  for (const Buffer* buffer : {&gk, &gq, &gw}) {
    const TensorView& view = buffer->view();
    for (float& x : std::span(view.data<float>(), static_cast<size_t>(view.num_elements()))) {
      x = static_cast<float>(random.Normal());
    }
  }
  const Buffer packed(DType::kI8, {keys / 16, kGateSize / 2, 16, 2});
  const Buffer scale(DType::kF16, {keys});
  const Buffer candidates(DType::kI32, {tokens, 128});
  const GateKeyView view{packed, scale, keys};
  ops->PackGateKeys({gk, 0, view});
  const AttentionSpan span{keys - tokens, {}, kWindow, kSinks};
  double pairs = 0;
  for (int64_t t = 0; t < tokens; ++t) pairs += static_cast<double>(span.NumFar(t));
  for (auto _ : state) ops->SelectKeys({gq, gw, view, span, 128, candidates, {}, {}});
  state.counters["ns/(query key)"] = benchmark::Counter(
      pairs * 1e-9, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

// tokens, tokens of a document
BENCHMARK(BM_FullAttention)->Args({4096, 512})->Args({4096, 2048});
BENCHMARK(BM_FullAttentionGrad)->Args({4096, 512})->Args({4096, 2048});
BENCHMARK(BM_DenseGateKl)->Args({4096, 512})->Args({4096, 2048});
BENCHMARK(BM_SparseAttentionTraining)->Args({4096, 2048});
BENCHMARK(BM_SparseAttentionGrad)->Args({4096, 2048});
// queries, keys
BENCHMARK(BM_SparseAttention)->Args({512, 131072})->Args({512, 4096});
BENCHMARK(BM_SelectKeys)->Args({64, 131072})->Args({64, 4096})->Args({1, 16384})->Args({1, 131072});

}  // namespace
}  // namespace sluice
