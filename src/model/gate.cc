#include "model/gate.h"

#include <algorithm>
#include <limits>

#include "base/random.h"
#include "base/threads.h"
#include "base/trace.h"
#include "model/far_bias.h"
#include "model/linear.h"
#include "tensor/host.h"

namespace sluice {

namespace {

struct GateColumns {
  TensorView gq, gk_raw, gw;
};

// The three parts of the MLP's output, as views into its rows.
GateColumns SplitOutput(const GateConfig& config, const TensorView& out) {
  const int64_t tokens = out.dim(0);
  const int64_t queries = config.num_heads * config.head_dim;
  const TensorView gq = out.Columns(0, queries);
  return {TensorView(gq.raw(), gq.dtype(), {tokens, config.num_heads, config.head_dim}, out.row_stride()),
          out.Columns(queries, queries + config.head_dim),
          out.Columns(queries + config.head_dim, config.output_size())};
}

// Puts `count` distinct far keys that are not candidates yet behind the first `width` columns.
void AddRandomCandidates(const AttentionSpan& span, int64_t t, int64_t width, int64_t count, uint64_t seed,
                         int32_t* row) {
  std::fill(row + width, row + width + count, -1);
  const int64_t begin = span.SinksEnd(t);
  const int64_t num_far = span.NumFar(t);
  if (num_far <= width) return;  // All of them are candidates already.
  Random random(seed, static_cast<uint64_t>(t));
  // The parts of the row are sorted each; a few draws that hit one are simply dropped.
  int64_t filled = width;
  for (int64_t i = 0; i < count; ++i) {
    const auto key =
        static_cast<int32_t>(begin + static_cast<int64_t>(random.Below(static_cast<uint64_t>(num_far))));
    if (std::find(row, row + filled, key) == row + filled) row[filled++] = key;
  }
}

// The pass's own keys, packed.
void PackKeys(Ops& ops, Arena& arena, GateSaved& gate) {
  const int64_t tokens = gate.gk.dim(0);
  const int64_t groups = (tokens + GateKeyView::kGroup - 1) / GateKeyView::kGroup;
  gate.keys.packed = arena.Allocate(DType::kI8, {groups, gate.gk.dim(1) / 2, GateKeyView::kGroup, 2});
  gate.keys.scale = arena.Allocate(DType::kF16, {groups * GateKeyView::kGroup});
  gate.keys.packed.Zero();
  gate.keys.scale.Zero();
  gate.keys.num_keys = tokens;
  ops.PackGateKeys({gate.gk, 0, gate.keys});
}

}  // namespace

void GateForward(Ops& ops, Arena& arena, const AttentionLayer& layer, const TensorView& normed,
                 std::span<const PassSegment> segments, std::span<GateSaved> gates) {
  const TraceSpan span("gate mlp");
  const GateConfig& config = layer.config.gate;
  const GateWeights& weights = layer.weights.gate;
  const int64_t tokens = normed.dim(0);
  const DType dtype = ops.dtype();
  const TensorView hidden_pre = arena.Allocate(dtype, {tokens, config.hidden_size});
  const TensorView hidden = arena.Allocate(dtype, {tokens, config.hidden_size});
  const TensorView out = arena.Allocate(dtype, {tokens, config.output_size()});
  const TensorView gk = arena.Allocate(dtype, {tokens, config.head_dim});
  Multiply(ops, normed, weights.w1, hidden_pre);
  ops.Silu({hidden_pre, hidden});
  Multiply(ops, hidden, weights.w2, out);
  for (size_t i = 0; i < segments.size(); ++i) {
    const PassSegment& segment = segments[i];
    GateSaved& gate = gates[i];
    gate.normed = segment.Rows(normed);
    gate.hidden_pre = segment.Rows(hidden_pre);
    gate.hidden = segment.Rows(hidden);
    gate.out = segment.Rows(out);
    const GateColumns columns = SplitOutput(config, gate.out);
    gate.gq = columns.gq;
    gate.gk_raw = columns.gk_raw;
    gate.gw = columns.gw;
    gate.gk = segment.Rows(gk);
  }
}

void GateKeys(Ops& ops, const AttentionLayer& layer, const TokenBatch& batch, const PassSegment& segment,
              GateSaved& gate) {
  CausalConvArgs conv;
  conv.x = gate.gk_raw;
  conv.weight = layer.weights.gate.conv;
  conv.segment_start = batch.segment_start;
  conv.out = gate.gk;
  if (segment.cache == nullptr) return ops.CausalConv(conv);
  KvCache& cache = *segment.cache;
  const int64_t gate_idx = layer.config.GateOf(layer.layer);
  conv.history = cache.ConvHistory(gate_idx);
  conv.first_position = cache.num_tokens();
  ops.CausalConv(conv);
  cache.SaveGateRows(gate_idx, gate.gk_raw);
  gate.keys = cache.GateKeys(gate_idx);
  ops.PackGateKeys({gate.gk, cache.num_tokens(), gate.keys});
  cache.CloseTreeGroups(gate_idx);
}

void GateSelect(Ops& ops, const AttentionLayer& layer, const PassSegment& segment, const AttentionSpan& span,
                bool training, GateSaved& gate) {
  const TraceSpan trace("gate select");
  const PassOptions& options = *segment.options;
  const KvCache* cache = segment.cache;
  Arena& arena = *segment.arena;
  const int64_t tokens = gate.gq.dim(0);
  const int64_t ranked = options.top_k + (training ? options.gate.num_extra : 0);
  const int64_t num_random = training ? options.gate.num_random : 0;
  if (options.surrogate != nullptr) {
    gate.candidates = (*options.surrogate)[static_cast<size_t>(layer.layer)].candidates;
  } else {
    gate.candidates = arena.Allocate(DType::kI32, {tokens, ranked + num_random});
    if (cache == nullptr) PackKeys(ops, arena, gate);
    SelectKeysArgs select;
    select.gq = gate.gq;
    select.gw = gate.gw;
    select.keys = gate.keys;
    if (cache != nullptr) {
      gate.search.tree = cache->GateTree(layer.config.GateOf(layer.layer));
      gate.search.beam = options.tree.BeamFor(ranked, span.num_sinks);
      gate.search.min_keys = options.tree.min_keys;
    }
    select.search = gate.search;
    select.span = span;
    select.num_selected = options.top_k;
    select.candidates = gate.candidates.Columns(0, ranked);
    const bool adaptive = !training && options.gate_mass < 1;
    if (adaptive || (!training && layer.config.gate.bias)) {
      gate.scores = arena.Allocate(ops.dtype(), gate.candidates.shape());
      select.scores = gate.scores;
    }
    ops.SelectKeys(select);
    if (adaptive) {
      ops.KeepMass(
          {gate.candidates, gate.scores, options.gate_mass, options.min_keys, gate.candidates, gate.scores});
    }
    if (num_random > 0) {
      ParallelForRange(tokens, 64, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          AddRandomCandidates(span, t, ranked, num_random, options.gate.random_seed,
                              gate.candidates.row<int32_t>(t));
        }
      });
    }
  }
  if (!training) return;
  gate.scores = arena.Allocate(ops.dtype(), gate.candidates.shape());
  gate.threshold = arena.Allocate(ops.dtype(), {tokens});
  gate.dscores = arena.Allocate(ops.dtype(), gate.candidates.shape());
  gate.dscores.Zero();
  ops.GateScores({gate.gq, gate.gw, gate.gk, gate.candidates, options.top_k, gate.scores, gate.threshold});
  if (options.surrogate != nullptr) {
    gate.threshold = (*options.surrogate)[static_cast<size_t>(layer.layer)].threshold;
  }
}

void GateDistil(Ops& ops, Arena& arena, const PassOptions& options, const ModelConfig& config,
                const AttentionSaved& saved, GateSaved& gate, GateLoss& loss) {
  const TraceSpan trace("gate distillation");
  const Arena::Position mark = arena.Mark();
  const int64_t tokens = saved.normed.dim(0);
  const TensorView row_loss = arena.Allocate(ops.dtype(), {tokens});
  // The loss is the mean over tokens and layers.
  const double scale = options.gate.kl_weight / static_cast<double>(tokens * config.num_layers);
  if (options.attention == AttentionMode::kSparse) {
    GateKlArgs args;
    args.scores = gate.scores;
    args.candidates = gate.candidates;
    args.target = saved.target;
    args.mass = saved.mass;
    args.mass_floor = options.gate.kl_mass_floor;
    args.scale = scale;
    args.loss = row_loss;
    args.dscores = arena.Allocate(ops.dtype(), gate.scores.shape());
    ops.GateKl(args);
    ops.Add({args.dscores, gate.dscores});
  } else {
    DenseGateKlArgs args;
    args.in = saved.in;
    args.lse = saved.lse;
    args.gq = gate.gq;
    args.gw = gate.gw;
    args.gk = gate.gk;
    args.mass_floor = options.gate.kl_mass_floor;
    args.scale = scale;
    args.loss = row_loss;
    args.dgq = arena.Allocate(ops.dtype(), gate.dgq.shape());
    args.dgw = arena.Allocate(ops.dtype(), gate.dgw.shape());
    args.dgk = arena.Allocate(ops.dtype(), gate.dgk.shape());
    ops.DenseGateKl(args);
    ops.Add({args.dgq, gate.dgq});
    ops.Add({args.dgw, gate.dgw});
    ops.Add({args.dgk, gate.dgk});
  }
  loss.sum += SumOf(row_loss) / static_cast<double>(tokens);
  ++loss.layers;
  arena.Release(mark);
}

void GateBackward(Ops& ops, Arena& arena, const AttentionLayer& layer, const TokenBatch& batch,
                  const PassOptions& options, const AttentionSpan& span, const GateWeights& dweights,
                  const GateSaved& gate, const TensorView& dnormed) {
  const TraceSpan trace("gate backward");
  const Arena::Position mark = arena.Mark();
  const DType dtype = ops.dtype();
  const GateWeights& weights = layer.weights.gate;
  const TensorView dout = arena.Allocate(dtype, gate.out.shape());
  const GateColumns dcolumns = SplitOutput(layer.config.gate, dout);
  const TensorView dgk = arena.Allocate(dtype, gate.gk.shape());
  if (options.attention == AttentionMode::kSparse) {
    ops.GateScoresGrad(
        {gate.gq, gate.gw, gate.gk, gate.candidates, gate.dscores, dcolumns.gq, dcolumns.gw, dgk});
  } else {
    if (options.HasBias(layer.config.gate)) {
      DenseBiasBackward(ops, span, gate, dcolumns.gq, dcolumns.gw, dgk);
    } else {
      for (const TensorView& gradient : {dcolumns.gq, dcolumns.gw, dgk}) gradient.Zero();
    }
    if (options.gate.kl_weight > 0) {
      ops.Add({gate.dgq, dcolumns.gq});
      ops.Add({gate.dgw, dcolumns.gw});
      ops.Add({gate.dgk, dgk});
    }
  }
  CausalConvGradArgs conv;
  conv.x = gate.gk_raw;
  conv.weight = weights.conv;
  conv.segment_start = batch.segment_start;
  conv.dout = dgk;
  conv.dx = dcolumns.gk_raw;
  conv.dweight_acc = dweights.conv;
  ops.CausalConvGrad(conv);

  const TensorView dhidden = arena.Allocate(dtype, gate.hidden.shape());
  ops.MatMulGrad({gate.hidden, weights.w2.floats, dout, dhidden, dweights.w2.floats});
  ops.SiluGrad({gate.hidden_pre, dhidden, dhidden});
  const TensorView dinput = arena.Allocate(dtype, dnormed.shape());
  ops.MatMulGrad({gate.normed, weights.w1.floats, dhidden, dinput, dweights.w1.floats});
  ops.Add({dinput, dnormed});
  arena.Release(mark);
}

}  // namespace sluice
