#include "model/moe.h"

#include "base/trace.h"
#include "model/linear.h"

namespace sluice {

namespace {

void Route(Ops& ops, Arena& arena, const ModelConfig& config, const LayerWeights& weights,
           const TokenBatch& batch, const RouterCapacity& capacity, MoeSaved& state) {
  const TraceSpan span("router");
  const DType dtype = ops.dtype();
  const int64_t tokens = state.x.dim(0);
  const int64_t experts = config.moe.num_experts;
  const int64_t slots = config.moe.experts_per_token;
  state.logits = arena.Allocate(dtype, {tokens, experts});
  state.probs = arena.Allocate(dtype, {tokens, experts});
  state.choices = arena.Allocate(DType::kI32, {tokens, slots});
  state.experts = arena.Allocate(DType::kI32, {tokens, slots});
  state.gates = arena.Allocate(dtype, {tokens, slots});
  state.offsets = arena.Allocate(DType::kI32, {experts + 1});
  state.row_token = arena.Allocate(DType::kI32, {tokens * slots});
  state.token_row = arena.Allocate(DType::kI32, {tokens, slots});
  ops.MatMul({state.normed, weights.router, state.logits});
  RouterArgs args;
  args.logits = state.logits;
  args.bias = weights.router_bias;
  args.experts_per_token = slots;
  args.scores = config.moe.router_scores;
  args.capacity = capacity;
  args.sequence_length = batch.sequence_length;
  args.probs = state.probs;
  args.choices = state.choices;
  args.experts = state.experts;
  args.gates = state.gates;
  ops.Router(args);
  ops.PlanDispatch({state.experts, state.offsets, state.row_token, state.token_row});
}

// x_out = Shared(normed).
void SharedForward(Ops& ops, Arena& arena, const MoeConfig& moe, const LayerWeights& weights, MoeSaved& state,
                   const TensorView& x_out) {
  const int64_t tokens = state.x.dim(0);
  state.shared_gate_up = arena.Allocate(ops.dtype(), {tokens, 2 * moe.shared_intermediate_size});
  state.shared_activated = arena.Allocate(ops.dtype(), {tokens, moe.shared_intermediate_size});
  Multiply(ops, state.normed, weights.shared_gate_up, state.shared_gate_up);
  ops.SwiGlu({state.shared_gate_up, state.shared_activated});
  Multiply(ops, state.shared_activated, weights.shared_down, x_out);
}

// Adds the gradient of Shared(normed) to dnormed; dx is that of its output.
void SharedBackward(Ops& ops, Arena& arena, const LayerWeights& weights, const LayerWeights& dweights,
                    const MoeSaved& saved, const TensorView& dx, const TensorView& dnormed) {
  const auto like = [&](const TensorView& view) { return arena.Allocate(ops.dtype(), view.shape()); };
  const TensorView dactivated = like(saved.shared_activated);
  ops.MatMulGrad(
      {saved.shared_activated, weights.shared_down.floats, dx, dactivated, dweights.shared_down.floats});
  const TensorView dgate_up = like(saved.shared_gate_up);
  ops.SwiGluGrad({saved.shared_gate_up, dactivated, dgate_up});
  const TensorView part = like(saved.normed);
  ops.MatMulGrad(
      {saved.normed, weights.shared_gate_up.floats, dgate_up, part, dweights.shared_gate_up.floats});
  ops.Add({part, dnormed});
}

void TellRouting(int64_t layer, std::span<const PassSegment> segments, const MoeSaved& state,
                 const TensorView& bias) {
  for (const PassSegment& segment : segments) {
    const TensorView experts = segment.Rows(state.experts);
    if (segment.options->expert_load != nullptr) segment.options->expert_load->Count(layer, experts);
    if (segment.observer == nullptr) continue;
    segment.observer->OnRouting({layer, segment.Rows(state.logits), segment.Rows(state.probs),
                                 segment.Rows(state.choices), experts, bias});
  }
}

bool HasShared(const LayerWeights& weights) {
  return weights.shared_gate_up.floats.present() || weights.shared_gate_up.quantized.present();
}

bool CanFuse(const LayerWeights& weights) {
  return AreInBlocks({&weights.expert_gate_up, &weights.expert_down}) &&
         (!HasShared(weights) || AreInBlocks({&weights.shared_gate_up, &weights.shared_down}));
}

// state.outputs of the experts and x_out of the shared one (zeros without), in one op.
void FusedForward(Ops& ops, Arena& arena, const LayerWeights& weights, MoeSaved& state,
                  const TensorView& x_out) {
  state.outputs = arena.Allocate(ops.dtype(), {state.row_token.dim(0), state.x.dim(1)});
  QuantizedFeedForwardArgs args;
  args.x = state.normed;
  args.experts = {weights.expert_gate_up.quantized, weights.expert_down.quantized};
  args.offsets = state.offsets;
  args.token_row = state.token_row;
  args.outputs = state.outputs;
  if (HasShared(weights)) {
    args.shared = {weights.shared_gate_up.quantized, weights.shared_down.quantized};
    args.shared_out = x_out;
  } else {
    x_out.Zero();
  }
  ops.QuantizedFeedForward(args);
}

// x_out = Shared(normed) + Σ_slots gate · Expert(normed), and all that its gradient is made of.
void ExpertsForward(Ops& ops, Arena& arena, const ModelConfig& config, const LayerWeights& weights,
                    MoeSaved& state, const TensorView& x_out) {
  const MoeConfig& moe = config.moe;
  const DType dtype = ops.dtype();
  const int64_t rows = state.row_token.dim(0);
  state.rows = arena.Allocate(dtype, {rows, config.hidden_size});
  state.gate_up = arena.Allocate(dtype, {rows, 2 * moe.intermediate_size});
  state.activated = arena.Allocate(dtype, {rows, moe.intermediate_size});
  state.outputs = arena.Allocate(dtype, {rows, config.hidden_size});
  // Rows that no token was served in stay unread, but elementwise ops run over all of them.
  const auto served = static_cast<int64_t>(state.offsets.data<int32_t>()[moe.num_experts]);
  ops.Dispatch({state.normed, state.row_token, state.rows});
  MultiplyGrouped(ops, state.rows, weights.expert_gate_up, state.offsets, state.gate_up);
  ops.SwiGlu({state.gate_up.Rows(0, served), state.activated.Rows(0, served)});
  MultiplyGrouped(ops, state.activated, weights.expert_down, state.offsets, state.outputs);

  if (HasShared(weights)) {
    SharedForward(ops, arena, moe, weights, state, x_out);
  } else {
    x_out.Zero();
  }
  ops.Combine({state.outputs, state.token_row, state.gates, x_out});
}

}  // namespace

void MoeForward(Ops& ops, Arena& arena, const ModelConfig& config, const LayerWeights& weights, int64_t layer,
                const TokenBatch& batch, std::span<const PassSegment> segments, const TensorView& x,
                MoeSaved* saved, RouterLosses* losses, const TensorView& x_out) {
  MoeSaved local;
  MoeSaved& state = saved != nullptr ? *saved : local;
  state.x = x;
  state.normed = arena.Allocate(ops.dtype(), x.shape());
  ops.RmsNorm({x, weights.ffn_norm, config.rms_norm_eps, state.normed});
  Route(ops, arena, config, weights, batch,
        saved != nullptr ? segments.front().options->capacity : RouterCapacity(), state);
  TellRouting(layer, segments, state, weights.router_bias);
  if (losses != nullptr) {
    double balance = 0, sequence_balance = 0, z = 0;
    ops.RouterLoss(
        {state.logits, state.probs, state.choices, batch.sequence_length, &balance, &sequence_balance, &z});
    losses->balance += balance;
    losses->sequence_balance += sequence_balance;
    losses->z += z;
  }

  const TraceSpan span("experts");
  if (saved == nullptr && CanFuse(weights)) {
    FusedForward(ops, arena, weights, state, x_out);
    ops.Combine({state.outputs, state.token_row, state.gates, x_out});
    ops.Add({x, x_out});
    return;
  }
  const Arena::Position mark = arena.Mark();
  ExpertsForward(ops, arena, config, weights, state, x_out);
  if (saved != nullptr && segments.front().options->recompute_experts) arena.Release(mark);
  ops.Add({x, x_out});
}

void MoeBackward(Ops& ops, Arena& arena, const ModelConfig& config, const LayerWeights& weights,
                 const TokenBatch& batch, const PassOptions& options, const LayerWeights& dweights,
                 const MoeSaved& forward, const TensorView& dx) {
  const TraceSpan span("experts backward");
  const Arena::Position mark = arena.Mark();
  MoeSaved saved = forward;
  if (options.recompute_experts) {
    ExpertsForward(ops, arena, config, weights, saved, arena.Allocate(ops.dtype(), dx.shape()));
  }
  const auto like = [&](const TensorView& view) { return arena.Allocate(ops.dtype(), view.shape()); };
  const auto served = static_cast<int64_t>(saved.offsets.data<int32_t>()[config.moe.num_experts]);

  const TensorView drows_out = like(saved.outputs);
  const TensorView dgates = like(saved.gates);
  ops.CombineGrad({saved.outputs, saved.token_row, saved.row_token, saved.gates, dx, drows_out, dgates});
  const TensorView dactivated = like(saved.activated);
  ops.GroupedMatMulGrad({saved.activated, weights.expert_down.floats, saved.offsets, drows_out, dactivated,
                         dweights.expert_down.floats});
  const TensorView dgate_up = like(saved.gate_up);
  ops.SwiGluGrad({saved.gate_up.Rows(0, served), dactivated.Rows(0, served), dgate_up.Rows(0, served)});
  const TensorView drows = drows_out;  // Its gradient is spent.
  ops.GroupedMatMulGrad({saved.rows, weights.expert_gate_up.floats, saved.offsets, dgate_up, drows,
                         dweights.expert_gate_up.floats});
  const TensorView dnormed = like(saved.normed);
  ops.DispatchGrad({drows, saved.token_row, dnormed});

  if (config.moe.shared_intermediate_size > 0) {
    SharedBackward(ops, arena, weights, dweights, saved, dx, dnormed);
  }
  const TensorView part = like(saved.normed);

  RouterGradArgs router;
  router.logits = saved.logits;
  router.probs = saved.probs;
  router.choices = saved.choices;
  router.experts = saved.experts;
  router.gates = saved.gates;
  router.scores = config.moe.router_scores;
  router.sequence_length = batch.sequence_length;
  router.dgates = dgates;
  router.weights = options.router;
  router.dlogits = like(saved.logits);
  ops.RouterGrad(router);
  ops.MatMulGrad({saved.normed, weights.router, router.dlogits, part, dweights.router});
  ops.Add({part, dnormed});
  ops.RmsNormGrad({saved.x, weights.ffn_norm, config.rms_norm_eps, dnormed, part, dweights.ffn_norm});
  ops.Add({part, dx});
  arena.Release(mark);
}

}  // namespace sluice
