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

// Projections and QK-norm of all rows into `saved`, and rotation of the queries.
void ProjectInputs(Ops& ops, Arena& arena, const AttentionLayer& layer, const TokenBatch& batch,
                   AttentionSaved& saved) {
  const TraceSpan span("attention projections");
  const ModelConfig& config = layer.config;
  const LayerWeights& weights = layer.weights;
  const DType dtype = ops.dtype();
  const int64_t tokens = saved.x.dim(0);
  const Shape q_shape = {tokens, config.num_heads, config.head_dim};
  const Shape kv_shape = {tokens, config.num_kv_heads, config.head_dim};

  saved.normed = arena.Allocate(dtype, saved.x.shape());
  saved.q_raw = arena.Allocate(dtype, q_shape);
  saved.k_raw = arena.Allocate(dtype, kv_shape);
  AttentionInputs& in = saved.in;
  in.q = arena.Allocate(dtype, q_shape);
  in.q_rot = arena.Allocate(dtype, q_shape);
  const TensorView k = arena.Allocate(dtype, kv_shape);
  const TensorView v = arena.Allocate(dtype, kv_shape);

  MultiplyNormed(ops, {saved.x, weights.attention_norm, config.rms_norm_eps, saved.normed},
                 {{weights.wq, TokenRows(saved.q_raw)},
                  {weights.wk, TokenRows(saved.k_raw)},
                  {weights.wv, TokenRows(v)}});
  ops.RmsNorm({HeadRows(saved.q_raw), weights.q_norm, config.rms_norm_eps, HeadRows(in.q)});
  ops.RmsNorm({HeadRows(saved.k_raw), weights.k_norm, config.rms_norm_eps, HeadRows(k)});
  ops.LengthScale({TokenRows(in.q), batch.positions, config.logn_length});
  ops.Rope({in.q, batch.positions, config.rope_theta, in.q_rot});
  in.k = k;
  in.v = v;
  in.sink_logit = weights.sink_logit;
  in.span.segment_start = batch.segment_start;
  in.span.window = config.window;
  in.span.num_sinks = config.num_sinks;
}

// The views of the cache that attention reads, with the segment's keys and values in it. The pass's own keys
// are read, and rotated, as the cache has rounded them.
void CacheInputs(Ops& ops, const AttentionLayer& layer, const TensorView& positions, const TensorView& k,
                 const TensorView& v, const PassSegment& segment, AttentionInputs& in) {
  KvCache& cache = *segment.cache;
  const int64_t begin = cache.num_tokens();
  in.k = cache.Keys(layer.layer);
  in.v = cache.Values(layer.layer);
  ops.StoreKeyRows({k, begin, in.k});
  ops.StoreKeyRows({v, begin, in.v});
  ops.LoadKeyRows({in.k, begin, k});
  in.k_rot = cache.RotatedKeys(layer.layer, *segment.arena);
  in.k_rot_begin = cache.RotatedBegin();
  const int64_t held = begin - in.k_rot_begin;
  ops.Rope({k, positions, layer.config.rope_theta, in.k_rot.Rows(held, held + k.dim(0))});
  cache.SaveRotatedKeys(layer.layer, in.k_rot);
  cache.EncodeNewKeys(layer.layer, layer.key_codebook);
  in.span.query_offset = begin;
}

// What the queries of a segment attend to, of what ProjectInputs made of all rows.
AttentionInputs SegmentInputs(Ops& ops, const AttentionLayer& layer, const TokenBatch& batch,
                              const PassSegment& segment, const AttentionInputs& all) {
  AttentionInputs in = all;
  in.q = segment.Rows(all.q);
  in.q_rot = segment.Rows(all.q_rot);
  const TensorView positions = segment.Rows(batch.positions);
  const TensorView k = segment.Rows(all.k.rows);
  if (segment.cache != nullptr) {
    CacheInputs(ops, layer, positions, k, segment.Rows(all.v.rows), segment, in);
  } else {
    in.k_rot = segment.arena->Allocate(ops.dtype(), k.shape());
    ops.Rope({k, positions, layer.config.rope_theta, in.k_rot});
  }
  return in;
}

// A segment's part of what all rows have.
AttentionSaved SegmentOf(Ops& ops, const AttentionLayer& layer, const TokenBatch& batch,
                         const PassSegment& segment, const AttentionSaved& all) {
  AttentionSaved state;
  state.in = SegmentInputs(ops, layer, batch, segment, all.in);
  state.x = segment.Rows(all.x);
  state.normed = segment.Rows(all.normed);
  state.q_raw = segment.Rows(all.q_raw);
  state.k_raw = segment.Rows(all.k_raw);
  state.out = segment.Rows(all.out);
  return state;
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

void DenseForward(Ops& ops, Arena& arena, const AttentionLayer& layer, const PassOptions& options,
                  bool training, const GateSaved& gate, AttentionSaved& saved) {
  const TraceSpan span("full attention");
  const bool biased = options.HasBias(layer.config.gate);
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

// Sparse attention, and then what the guarantee asks for.
void GuaranteedForward(Ops& ops, const AttentionLayer& layer, const PassSegment& segment,
                       const GateSaved& gate, const AttentionSaved& saved) {
  const TraceSpan span("guaranteed attention");
  Arena& arena = *segment.arena;
  const int64_t tokens = saved.x.dim(0);
  GuaranteedAttentionArgs args;
  args.in = saved.in;
  args.candidates = gate.candidates;
  args.codebook = layer.key_codebook;
  args.codes = segment.cache->KeyCodes(layer.layer);
  args.epsilon = segment.options->guarantee;
  args.out = saved.out;
  args.bound = arena.Allocate(ops.dtype(), {tokens});
  args.keys_read = arena.Allocate(DType::kI32, {tokens});
  if (!layer.config.gate.bias) {
    ops.GuaranteedAttention(args);
  } else {
    BiasedGuaranteedAttention(ops, arena, gate, layer.weights.gate_bias, args);
  }
  if (segment.observer != nullptr) segment.observer->OnGuarantee(layer.layer, args);
}

// Clears what the layers of one gate will add up.
void StartDenseDistillation(Ops& ops, Arena& arena, GateSaved& gate) {
  gate.dgq = arena.Allocate(ops.dtype(), gate.gq.shape());
  gate.dgw = arena.Allocate(ops.dtype(), gate.gw.shape());
  gate.dgk = arena.Allocate(ops.dtype(), gate.gk.shape());
  for (const TensorView& gradient : {gate.dgq, gate.dgw, gate.dgk}) gradient.Zero();
}

// A dense pass without distillation leaves the gate alone, but a cache keeps its index complete.
bool UsesGate(const AttentionLayer& layer, const PassSegment& segment, bool training) {
  const PassOptions& options = *segment.options;
  const bool distil = training && options.gate.kl_weight > 0;
  return layer.config.HasGate(layer.layer) &&
         (options.attention == AttentionMode::kSparse || distil || options.HasBias(layer.config.gate) ||
          segment.cache != nullptr);
}

// What is a segment's own: gate keys, selection, attention.
void Attend(Ops& ops, const AttentionLayer& layer, const TokenBatch& batch, const PassSegment& segment,
            bool training, GateSaved& gate, AttentionSaved& state, GateLoss* gate_loss) {
  Arena& arena = *segment.arena;
  const PassOptions& options = *segment.options;
  const bool sparse = options.attention == AttentionMode::kSparse;
  const bool distil = training && options.gate.kl_weight > 0;
  const bool biased = options.HasBias(layer.config.gate);
  if (UsesGate(layer, segment, training)) {
    GateKeys(ops, layer, batch, segment, gate);
    if (sparse) GateSelect(ops, layer, segment, state.in.span, training, gate);
    if (!sparse && distil) StartDenseDistillation(ops, arena, gate);
    if (!sparse && biased && training) StartDenseBias(ops, arena, state.in.span, gate);
  }
  if (sparse && options.selector != nullptr) {
    SelectInstead(ops, arena, layer, options, state.in, gate);
  }
  if (sparse && options.guarantee > 0) {
    SLUICE_CHECK(segment.cache != nullptr);
    GuaranteedForward(ops, layer, segment, gate, state);
  } else if (sparse) {
    if (biased) state.in.bias = {gate.scores, layer.weights.gate_bias};
    SparseForward(ops, arena, layer, options, training, gate, state);
  } else {
    DenseForward(ops, arena, layer, options, training, gate, state);
  }
  if (distil) GateDistil(ops, arena, options, layer.config, state, gate, *gate_loss);
  if (segment.observer != nullptr) segment.observer->OnAttention(StepOf(layer, options, state.in, gate));
}

}  // namespace

void AttentionForward(Ops& ops, Arena& arena, const AttentionLayer& layer, const TokenBatch& batch,
                      std::span<const PassSegment> segments, const TensorView& x, std::span<GateSaved> gates,
                      AttentionSaved* saved, GateLoss* gate_loss, const TensorView& x_out) {
  const bool training = saved != nullptr;
  AttentionSaved all;
  all.x = x;
  ProjectInputs(ops, arena, layer, batch, all);
  all.out = arena.Allocate(ops.dtype(), all.in.q.shape());
  if (UsesGate(layer, segments.front(), training)) {
    GateForward(ops, arena, layer, all.normed, segments, gates);
  }
  ForSegments(segments, [&](size_t i) {
    AttentionSaved state = SegmentOf(ops, layer, batch, segments[i], all);
    Attend(ops, layer, batch, segments[i], training, gates[i], state, gate_loss);
    if (training) *saved = state;
  });
  const TraceSpan span("attention output");
  Multiply(ops, TokenRows(all.out), layer.weights.wo, x_out);
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
  const bool biased = options.HasBias(config.gate);
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
