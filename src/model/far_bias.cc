#include "model/far_bias.h"

#include <algorithm>
#include <functional>

#include "base/trace.h"

namespace sluice {

namespace {

// Queries whose scores are in memory at once: 128 MiB at 131,072 keys.
constexpr int64_t kSliceRows = 256;

int64_t MaxFar(const AttentionSpan& span, int64_t tokens) {
  int64_t max_far = 1;
  for (int64_t t = 0; t < tokens; ++t) max_far = std::max(max_far, span.NumFar(t));
  return max_far;
}

// The inputs of queries [begin, end).
AttentionInputs QuerySlice(const AttentionInputs& in, int64_t begin, int64_t end) {
  AttentionInputs slice = in;
  slice.q = in.q.Rows(begin, end);
  slice.q_rot = in.q_rot.Rows(begin, end);
  slice.span.query_offset = in.span.query_offset + begin;
  if (in.span.segment_start.present()) slice.span.segment_start = in.span.segment_start.Rows(begin, end);
  return slice;
}

// Calls attend(begin, end, inputs) for slices of queries [begin, end), the inputs theirs with the bias of
// every far key.
void ForBiasedSlices(Ops& ops, Arena& arena, const GateSaved& gate, const AttentionInputs& in,
                     const TensorView& bias_weight,
                     const std::function<void(int64_t, int64_t, const AttentionInputs&)>& attend) {
  const Arena::Position mark = arena.Mark();
  const int64_t tokens = in.q.dim(0);
  const int64_t num_keys = in.span.query_offset + tokens;
  const TensorView gk = arena.Allocate(ops.dtype(), {num_keys, gate.gq.dim(2)});
  ops.UnpackGateKeys({gate.keys, gk});
  const Arena::Position slice_mark = arena.Mark();
  for (int64_t begin = 0; begin < tokens; begin += kSliceRows) {
    const int64_t end = std::min(tokens, begin + kSliceRows);
    AttentionInputs slice = QuerySlice(in, begin, end);
    slice.bias.weight = bias_weight;
    slice.bias.scores = arena.Allocate(ops.dtype(), {end - begin, MaxFar(slice.span, end - begin)});
    ops.FarScores({gate.gq.Rows(begin, end), gate.gw.Rows(begin, end), gk, slice.span, slice.bias.scores});
    attend(begin, end, slice);
    arena.Release(slice_mark);
  }
  arena.Release(mark);
}

}  // namespace

void StartDenseBias(Ops& ops, Arena& arena, const AttentionSpan& span, GateSaved& gate) {
  const TraceSpan trace("far scores");
  const int64_t tokens = gate.gq.dim(0);
  const Shape shape = {tokens, MaxFar(span, tokens)};
  gate.far_scores = arena.Allocate(ops.dtype(), shape);
  gate.dfar_scores = arena.Allocate(ops.dtype(), shape);
  gate.dfar_scores.Zero();
  ops.FarScores({gate.gq, gate.gw, gate.gk, span, gate.far_scores});
}

void DenseBiasBackward(Ops& ops, const AttentionSpan& span, const GateSaved& gate, const TensorView& dgq,
                       const TensorView& dgw, const TensorView& dgk) {
  const TraceSpan trace("far scores backward");
  ops.FarScoresGrad({gate.gq, gate.gw, gate.gk, span, gate.dfar_scores, dgq, dgw, dgk});
}

void BiasedFullAttention(Ops& ops, Arena& arena, const GateSaved& gate, const AttentionInputs& in,
                         const TensorView& bias_weight, const TensorView& out) {
  ForBiasedSlices(ops, arena, gate, in, bias_weight,
                  [&](int64_t begin, int64_t end, const AttentionInputs& slice) {
                    ops.FullAttention({slice, out.Rows(begin, end), {}});
                  });
}

void BiasedGuaranteedAttention(Ops& ops, Arena& arena, const GateSaved& gate, const TensorView& bias_weight,
                               const GuaranteedAttentionArgs& args) {
  ForBiasedSlices(ops, arena, gate, args.in, bias_weight,
                  [&](int64_t begin, int64_t end, const AttentionInputs& slice) {
                    GuaranteedAttentionArgs part = args;
                    part.in = slice;
                    part.candidates = args.candidates.Rows(begin, end);
                    part.out = args.out.Rows(begin, end);
                    part.bound = args.bound.Rows(begin, end);
                    part.keys_read = args.keys_read.Rows(begin, end);
                    ops.GuaranteedAttention(part);
                  });
}

}  // namespace sluice
