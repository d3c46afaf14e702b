// The routed experts in training, forward and gradient, beside one dense product of the same FLOPs; and what
// routing itself takes. 4,096 tokens, 8 experts, 2 for each token; the argument is the hidden size.
//   experts / dense        time of the dense products (MatMul and its gradient, and OpenBLAS's sgemm of the
//   same
//                          sizes) over dispatch + grouped products + combine: 1 would be a free dispatch
//   routing / experts      router, histogram, losses and plan, over the whole of a layer's experts
// The two sides run in turns; compare within one run only.
#include <benchmark/benchmark.h>
#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "base/random.h"
#include "base/threads.h"
#include "eval/median.h"
#include "tensor/host.h"

namespace sluice {
namespace {

constexpr int64_t kTokens = 4096;
constexpr int64_t kExperts = 8;
constexpr int64_t kSlots = 2;
constexpr int64_t kRows = kTokens * kSlots;
constexpr int64_t kSequence = 1024;

Buffer RandomBuffer(Shape shape, uint64_t seed) {
  Buffer buffer(DType::kF32, shape);
  Random random(seed);
  for (int64_t i = 0; i < shape.num_elements(); ++i) {
    buffer.view().data<float>()[i] = static_cast<float>(random.Uniform() - 0.5);
  }
  return buffer;
}

// One up projection of a layer's experts, hidden -> hidden, and all that leads to it and back.
class Layer {
 public:
  explicit Layer(int64_t hidden)
      : ops_(MakeOps("cpu")),
        hidden_(hidden),
        x_(RandomBuffer({kTokens, hidden}, 1)),
        w_(RandomBuffer({kExperts, hidden, hidden}, 2)),
        w_dense_(RandomBuffer({hidden, hidden}, 3)),
        logits_(RandomBuffer({kTokens, kExperts}, 4)),
        dout_(RandomBuffer({kTokens, hidden}, 5)),
        dense_x_(RandomBuffer({kRows, hidden}, 6)) {
    Route();
  }

  void Route() {
    RouterArgs args;
    args.logits = logits_;
    args.bias = bias_;
    args.experts_per_token = kSlots;
    args.capacity.rule = CapacityRule::kDynamic;
    args.sequence_length = kSequence;
    args.probs = probs_;
    args.choices = choices_;
    args.experts = experts_;
    args.gates = gates_;
    ops_->Router(args);
    ops_->PlanDispatch({experts_, offsets_, row_token_, token_row_});
  }

  // What training adds to routing: losses, their gradient, the balance's counts.
  void RouteTraining() {
    Route();
    double balance = 0, sequence_balance = 0, z = 0;
    ops_->RouterLoss({logits_, probs_, choices_, kSequence, &balance, &sequence_balance, &z});
    RouterGradArgs args;
    args.logits = logits_;
    args.probs = probs_;
    args.choices = choices_;
    args.experts = experts_;
    args.gates = gates_;
    args.sequence_length = kSequence;
    args.dgates = dgates_;
    args.weights = {0.01, 0.0001, 0.0001};
    args.dlogits = dlogits_;
    ops_->RouterGrad(args);
    ops_->RouterHistogram({probs_, bias_, kSlots, counts_});
  }

  void Experts() {
    ops_->Dispatch({x_, row_token_, rows_});
    ops_->GroupedMatMul({rows_, w_, offsets_, outputs_});
    ops_->Combine({outputs_, token_row_, gates_, out_});
    ops_->CombineGrad({outputs_, token_row_, row_token_, gates_, dout_, doutputs_, dgates_});
    ops_->GroupedMatMulGrad({rows_, w_, offsets_, doutputs_, drows_, dw_});
    ops_->DispatchGrad({drows_, token_row_, dx_});
  }

  // As many FLOPs in one product of one weight matrix, and its gradient.
  void Dense() {
    ops_->MatMul({dense_x_, w_dense_, outputs_});
    ops_->MatMulGrad({dense_x_, w_dense_, outputs_, drows_, dw_.view().At(0)});
  }

  // The same three products by OpenBLAS, rows (of dw: rows of it) split over our threads.
  void Blas() {
    const auto n = static_cast<int>(hidden_);
    const int64_t part = kRows / NumThreads();
    const int64_t dw_part = hidden_ / NumThreads();
    const float* x = dense_x_.view().data<float>();
    const float* w = w_dense_.view().data<float>();
    float* y = outputs_.view().data<float>();
    ParallelFor(NumThreads(), [&](int64_t i) {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(part), n, n, 1, x + i * part * n,
                  n, w, n, 0, y + i * part * n, n);
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(part), n, n, 1,
                  y + i * part * n, n, w, n, 0, drows_.view().data<float>() + i * part * n, n);
    });
    ParallelFor(NumThreads(), [&](int64_t i) {
      cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, static_cast<int>(dw_part), n,
                  static_cast<int>(kRows), 1, y + i * dw_part, n, x, n, 1,
                  dw_.view().data<float>() + i * dw_part * n, n);
    });
  }

 private:
  std::unique_ptr<Ops> ops_;
  int64_t hidden_;
  Buffer x_, w_, w_dense_, logits_, dout_, dense_x_;
  Buffer bias_{DType::kF32, {kExperts}};
  Buffer probs_{DType::kF32, {kTokens, kExperts}}, dlogits_{DType::kF32, {kTokens, kExperts}};
  Buffer choices_{DType::kI32, {kTokens, kSlots}}, experts_{DType::kI32, {kTokens, kSlots}};
  Buffer gates_{DType::kF32, {kTokens, kSlots}}, dgates_{DType::kF32, {kTokens, kSlots}};
  Buffer offsets_{DType::kI32, {kExperts + 1}}, row_token_{DType::kI32, {kRows}};
  Buffer token_row_{DType::kI32, {kTokens, kSlots}}, counts_{DType::kI32, {kExperts, 2048}};
  Buffer rows_{DType::kF32, {kRows, hidden_}}, outputs_{DType::kF32, {kRows, hidden_}};
  Buffer drows_{DType::kF32, {kRows, hidden_}}, doutputs_{DType::kF32, {kRows, hidden_}};
  Buffer out_{DType::kF32, {kTokens, hidden_}}, dx_{DType::kF32, {kTokens, hidden_}};
  Buffer dw_{DType::kF32, {kExperts, hidden_, hidden_}};
};

double SecondsOf(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void BM_Experts(benchmark::State& state) {
  openblas_set_num_threads(1);
  Layer layer(state.range(0));
  std::vector<double> experts, dense, blas, routing;
  for (auto _ : state) {
    for (int turn = 0; turn < 11; ++turn) {
      experts.push_back(SecondsOf([&] { layer.Experts(); }));
      dense.push_back(SecondsOf([&] { layer.Dense(); }));
      blas.push_back(SecondsOf([&] { layer.Blas(); }));
      routing.push_back(SecondsOf([&] { layer.RouteTraining(); }));
    }
  }
  const double seconds = Median(experts);
  const double flops = 6.0 * kRows * static_cast<double>(state.range(0) * state.range(0));
  state.counters["GFLOP/s"] = flops / seconds * 1e-9;
  state.counters["dense/experts"] = Median(dense) / seconds;
  state.counters["openblas/experts"] = Median(blas) / seconds;
  state.counters["routing_us"] = Median(routing) * 1e6;
}

BENCHMARK(BM_Experts)
    ->Arg(256)
    ->Arg(512)
    ->Arg(768)
    ->UseRealTime()
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sluice
