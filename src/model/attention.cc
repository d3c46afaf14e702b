#include "model/attention.h"

#include "base/trace.h"
#include "model/far_bias.h"
#include "model/gate.h"
#include "model/linear.h"

namespace sluice {

namespace {

// [tokens, heads, size] as [tokens · heads, size].
TensorView HeadRows(const TensorView& x) {
  return x.Reshape({x.dim(0) * x.dim(1), x.dim(2)});
}
TensorView TokenRows(const TensorView& x) {
  return x.Reshape({x.dim(0), x.dim(1) * x.dim(2)});
}

// Keys and values [tokens, kv_heads, head_dim] into the cache, and the views of it that attention reads. The
// pass's own keys are read, and rotated, as the cache has rounded them.
void CacheInputs(Ops& ops, Arena& arena, const AttentionLayer& layer, const TokenBatch& batch,
                 const TensorView& k, const TensorView& v, KvCache& cache, AttentionInputs& in) {
  const int64_t begin = cache.num_tokens();
  in.k = cache.Keys(layer.layer);
  in.v = cache.Values(layer.layer);
  ops.StoreKeyRows({k, begin, in.k});
  ops.StoreKeyRows({v, begin, in.v});
  ops.LoadKeyRows({in.k, begin, k});
  in.k_rot = cache.RotatedKeys(layer.layer, arena);
  in.k_rot_begin = cache.RotatedBegin();
  const int64_t held = begin - in.k_rot_begin;
  ops.Rope({k, batch.positions, layer.config.rope_theta, in.k_rot.Rows(held, held + k.dim(0))});
  cache.SaveRotatedKeys(layer.layer, in.k_rot);
  cache.SummarizeNewKeys(layer.layer);
  in.span.query_offset = begin;
}

// Projections, QK-norm and rotation into `saved`; keys and values into the cache where there is one.
void ProjectInputs(Ops& ops, Arena& arena, const AttentionLayer& layer, const TokenBatch& batch,
                   KvCache* cache, AttentionSaved& saved) {
  const TraceSpan span("attention projections");
  const ModelConfig& config = layer.config;
  const LayerWeights& weights = layer.weights;
  const DType dtype = ops.dtype();
  const int64_t tokens = saved.x.dim(0);
  const Shape q_shape = {tokens, config.num_heads, config.head_dim};
  const Shape kv_shape = {tokens, config.num_kv_heads, config.head_dim};

  saved.normed = arena.Allocate(dtype, saved.x.shape());
  ops.RmsNorm({saved.x, weights.attention_norm, config.rms_norm_eps, saved.normed});
  saved.q_raw = arena.Allocate(dtype, q_shape);
  saved.k_raw = arena.Allocate(dtype, kv_shape);
  AttentionInputs& in = saved.in;
  in.q = arena.Allocate(dtype, q_shape);
  in.q_rot = arena.Allocate(dtype, q_shape);
  const TensorView k = arena.Allocate(dtype, kv_shape);
  const TensorView v = arena.Allocate(dtype, kv_shape);

  Multiply(ops, saved.normed, weights.wq, TokenRows(saved.q_raw));
  Multiply(ops, saved.normed, weights.wk, TokenRows(saved.k_raw));
  Multiply(ops, saved.normed, weights.wv, TokenRows(v));
  ops.RmsNorm({HeadRows(saved.q_raw), weights.q_norm, config.rms_norm_eps, HeadRows(in.q)});
  ops.RmsNorm({HeadRows(saved.k_raw), weights.k_norm, config.rms_norm_eps, HeadRows(k)});
  ops.LengthScale({TokenRows(in.q), batch.positions, config.logn_length});
  ops.Rope({in.q, batch.positions, config.rope_theta, in.q_rot});
  if (cache != nullptr) {
    CacheInputs(ops, arena, layer, batch, k, v, *cache, in);
  } else {
    in.k = k;
    in.v = v;
    in.k_rot = arena.Allocate(dtype, kv_shape);
    ops.Rope({k, batch.positions, config.rope_theta, in.k_rot});
  }
  in.sink_logit = weights.sink_logit;
  in.span.segment_start = batch.segment_start;
  in.span.window = config.window;
  in.span.num_sinks = config.num_sinks;
}

void SparseForward(Ops& ops, Arena& arena, const AttentionLayer& layer, const PassOptions& options,
                   bool training, const GateSaved& gate, AttentionSaved& saved) {
  const TraceSpan span("sparse attention");
  if (options.surrogate != nullptr) {
    const GateConstants& constants = (*options.surrogate)[static_cast<size_t>(layer.layer)];
    ops.SurrogateAttention(
        {saved.in, gate.candidates, {gate.scores, gate.threshold, options.gate.temperature}, saved.out});
    saved.target = constants.target;
    saved.mass = constants.mass;
    return;
  }
  SparseAttentionArgs args;
  args.in = saved.in;
  args.candidates = gate.candidates;
  args.num_selected = options.top_k;
  args.out = saved.out;
  if (training && options.gate.kl_weight > 0) {
    saved.target = arena.Allocate(ops.dtype(), gate.candidates.shape());
    saved.mass = arena.Allocate(ops.dtype(), {saved.x.dim(0)});
    args.gate_target = saved.target;
    args.gate_mass = saved.mass;
  }
  ops.SparseAttention(args);
}

void DenseForward(Ops& ops, Arena& arena, const AttentionLayer& layer, bool training, const GateSaved& gate,
                  AttentionSaved& saved) {
  const TraceSpan span("full attention");
  const bool biased = layer.config.gate.bias;
  if (biased && !training) {
    return BiasedFullAttention(ops, arena, gate, saved.in, layer.weights.gate_bias, saved.out);
  }
  if (biased) saved.in.bias = {gate.far_scores, layer.weights.gate_bias};
  if (training) saved.lse = arena.Allocate(ops.dtype(), {saved.x.dim(0), layer.config.num_heads});
  ops.FullAttention({saved.in, saved.out, saved.lse});
}

// What selectors and observers see.
AttentionStep StepOf(const AttentionLayer& layer, const PassOptions& options, const AttentionInputs& inputs,
                     const GateSaved& gate) {
  AttentionStep step;
  step.layer = layer.layer;
  step.inputs = inputs;
  if (options.attention == AttentionMode::kSparse) {
    step.candidates = gate.candidates;
    step.search = gate.search;
  }
  if (layer.config.gate.bias) {
    step.gq = gate.gq;
    step.gw = gate.gw;
    step.gate_keys = gate.keys;
    step.bias_weight = layer.weights.gate_bias;
  }
  return step;
}

// Has another selection made in the gate's place; a bias is then that of the keys which it chose.
void SelectInstead(Ops& ops, Arena& arena, const AttentionLayer& layer, const PassOptions& options,
                   const AttentionInputs& inputs, GateSaved& gate) {
  options.selector->Select(StepOf(layer, options, inputs, gate));
  if (!layer.config.gate.bias) return;
  const TensorView gk = arena.Allocate(ops.dtype(), {gate.keys.num_keys, layer.config.gate.head_dim});
  const TensorView threshold = arena.Allocate(ops.dtype(), {gate.candidates.dim(0)});
  ops.UnpackGateKeys({gate.keys, gk});
  ops.GateScores({gate.gq, gate.gw, gk, gate.candidates, options.top_k, gate.scores, threshold});
}

// Sparse attention, and then block by block what the guarantee asks for.
void GuaranteedForward(Ops& ops, Arena& arena, const AttentionLayer& layer, const PassOptions& options,
                       const KvCache& cache, const GateSaved& gate, PassObserver* observer,
                       const AttentionSaved& saved) {
  const TraceSpan span("guaranteed attention");
  const int64_t tokens = saved.x.dim(0);
  GuaranteedAttentionArgs args;
  args.in = saved.in;
  args.candidates = gate.candidates;
  args.blocks = cache.KeyBlocks(layer.layer);
  args.epsilon = options.guarantee;
  args.out = saved.out;
  args.bound = arena.Allocate(ops.dtype(), {tokens});
  args.keys_read = arena.Allocate(DType::kI32, {tokens});
  if (!layer.config.gate.bias) {
    ops.GuaranteedAttention(args);
  } else {
    ForBiasedSlices(ops, arena, gate, saved.in, layer.weights.gate_bias,
                    [&](int64_t begin, int64_t end, const AttentionInputs& slice) {
                      ops.GuaranteedAttention({slice, gate.candidates.Rows(begin, end), args.blocks,
                                               args.epsilon, args.out.Rows(begin, end),
                                               args.bound.Rows(begin, end), args.keys_read.Rows(begin, end)});
                    });
  }
  if (observer != nullptr) observer->OnGuarantee(layer.layer, args);
}

// Clears what the layers of one gate will add up.
void StartDenseDistillation(Ops& ops, Arena& arena, GateSaved& gate) {
  gate.dgq = arena.Allocate(ops.dtype(), gate.gq.shape());
  gate.dgw = arena.Allocate(ops.dtype(), gate.gw.shape());
  gate.dgk = arena.Allocate(ops.dtype(), gate.gk.shape());
  for (const TensorView& gradient : {gate.dgq, gate.dgw, gate.dgk}) gradient.Zero();
}

}  // namespace

void AttentionForward(Ops& ops, Arena& arena, const AttentionLayer& layer, const TokenBatch& batch,
                      const PassOptions& options, const TensorView& x, KvCache* cache, GateSaved& gate,
                      AttentionSaved* saved, GateLoss* gate_loss, PassObserver* observer,
                      const TensorView& x_out) {
  AttentionSaved local;
  AttentionSaved& state = saved != nullptr ? *saved : local;
  const bool training = saved != nullptr;
  const bool sparse = options.attention == AttentionMode::kSparse;
  const bool distil = training && options.gate.kl_weight > 0;
  const bool leads = layer.config.HasGate(layer.layer);
  const bool biased = layer.config.gate.bias;
  state.x = x;
  ProjectInputs(ops, arena, layer, batch, cache, state);
  // A dense pass without distillation leaves the gate alone, but a cache keeps its index complete.
  if (leads && (sparse || distil || biased || cache != nullptr)) {
    GateForward(ops, arena, layer, batch, state.normed, cache, gate);
    if (sparse) GateSelect(ops, arena, layer, options, state.in.span, cache, training, gate);
    if (!sparse && distil) StartDenseDistillation(ops, arena, gate);
    if (!sparse && biased && training) StartDenseBias(ops, arena, state.in.span, gate);
  }

  state.out = arena.Allocate(ops.dtype(), state.in.q.shape());
  if (sparse && options.selector != nullptr) {
    SelectInstead(ops, arena, layer, options, state.in, gate);
  }
  if (sparse && options.guarantee > 0) {
    SLUICE_CHECK(cache != nullptr);
    GuaranteedForward(ops, arena, layer, options, *cache, gate, observer, state);
  } else if (sparse) {
    if (biased) state.in.bias = {gate.scores, layer.weights.gate_bias};
    SparseForward(ops, arena, layer, options, training, gate, state);
  } else {
    DenseForward(ops, arena, layer, training, gate, state);
  }
  if (distil) GateDistil(ops, arena, options, layer.config, state, gate, *gate_loss);
  if (observer != nullptr) observer->OnAttention(StepOf(layer, options, state.in, gate));

  const TraceSpan span("attention output");
  Multiply(ops, TokenRows(state.out), layer.weights.wo, x_out);
  ops.Add({x, x_out});
}

void AttentionBackward(Ops& ops, Arena& arena, const AttentionLayer& layer, const TokenBatch& batch,
                       const PassOptions& options, const LayerWeights& dweights, GateSaved& gate,
                       const AttentionSaved& saved, const TensorView& dx) {
  const Arena::Position mark = arena.Mark();
  const ModelConfig& config = layer.config;
  const LayerWeights& weights = layer.weights;
  const DType dtype = ops.dtype();
  const bool sparse = options.attention == AttentionMode::kSparse;
  const auto like = [&](const TensorView& view) { return arena.Allocate(dtype, view.shape()); };

  const TensorView dout = like(saved.out);
  ops.MatMulGrad({TokenRows(saved.out), weights.wo.floats, dx, TokenRows(dout), dweights.wo.floats});
  const bool biased = config.gate.bias;
  const AttentionInputGrads grads = {like(saved.in.q),
                                     like(saved.in.q),
                                     like(saved.in.k.rows),
                                     like(saved.in.k_rot),
                                     like(saved.in.v.rows),
                                     dweights.sink_logit,
                                     !biased  ? TensorView()
                                     : sparse ? gate.dscores
                                              : gate.dfar_scores,
                                     dweights.gate_bias};
  if (sparse) {
    const TraceSpan span("sparse attention backward");
    SparseAttentionGradArgs args;
    args.in = saved.in;
    args.candidates = gate.candidates;
    args.gate = {gate.scores, gate.threshold, options.gate.temperature};
    args.dout = dout;
    args.grads = grads;
    // Without straight-through the scores' gradient is computed and dropped.
    args.dscores_acc = gate.dscores;
    if (!options.gate.straight_through) {
      args.dscores_acc = like(gate.dscores);
      args.dscores_acc.Zero();
    }
    ops.SparseAttentionGrad(args);
  } else {
    const TraceSpan span("full attention backward");
    ops.FullAttentionGrad({saved.in, saved.out, saved.lse, dout, grads});
  }

  const TraceSpan span("attention projections backward");
  const TensorView dq_back = like(saved.in.q);
  const TensorView dk_back = like(saved.in.k.rows);
  ops.RopeGrad({grads.dq_rot, batch.positions, config.rope_theta, dq_back});
  ops.RopeGrad({grads.dk_rot, batch.positions, config.rope_theta, dk_back});
  ops.Add({dq_back, grads.dq});
  ops.LengthScale({TokenRows(grads.dq), batch.positions, config.logn_length});
  ops.Add({dk_back, grads.dk});
  // The buffers of the rotated gradients take those of the raw projections.
  const TensorView dq_raw = grads.dq_rot;
  const TensorView dk_raw = grads.dk_rot;
  ops.RmsNormGrad({HeadRows(saved.q_raw), weights.q_norm, config.rms_norm_eps, HeadRows(grads.dq),
                   HeadRows(dq_raw), dweights.q_norm});
  ops.RmsNormGrad({HeadRows(saved.k_raw), weights.k_norm, config.rms_norm_eps, HeadRows(grads.dk),
                   HeadRows(dk_raw), dweights.k_norm});
  const TensorView dnormed = like(saved.normed);
  const TensorView part = like(saved.normed);
  ops.MatMulGrad({saved.normed, weights.wq.floats, TokenRows(dq_raw), dnormed, dweights.wq.floats});
  ops.MatMulGrad({saved.normed, weights.wk.floats, TokenRows(dk_raw), part, dweights.wk.floats});
  ops.Add({part, dnormed});
  ops.MatMulGrad({saved.normed, weights.wv.floats, TokenRows(grads.dv), part, dweights.wv.floats});
  ops.Add({part, dnormed});
  if (config.HasGate(layer.layer) && (sparse || biased || options.gate.kl_weight > 0)) {
    GateBackward(ops, arena, layer, batch, options, saved.in.span, dweights.gate, gate, dnormed);
  }
  ops.RmsNormGrad(
      {saved.x, weights.attention_norm, config.rms_norm_eps, dnormed, part, dweights.attention_norm});
  ops.Add({part, dx});
  arena.Release(mark);
}

}  // namespace sluice
