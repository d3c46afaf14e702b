// What a query may look at, and attention over all of it (warm-up, controls, baselines).
//
// Tokens of several documents lie one after another; segment_start says where each query's document
// begins. The query of row t is the key at index p = span.query_offset + t. It sees
//   window: [window_begin, p], window_begin = max(first, p − window + 1): rotated q and k (RoPE)
//   sinks:  [first, min(first + num_sinks, window_begin)): unrotated
//   far:    [first + num_sinks, window_begin): unrotated
// with first = segment_start[t]. One softmax over all of them, and exp(sink_logit[h]) in its
// denominator. Head h reads key/value head h / (query_heads / kv_heads). Logits are scaled 1/√d.
//
// A gate may have a say in the logits of far keys (FarBias): head h adds weight[h] · score(t, s). The gate
// then learns from the loss itself, and attention agrees with what the gate selects.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/key_rows.h"
#include "tensor/tensor.h"

namespace sluice {

struct AttentionSpan {
  int64_t query_offset = 0;  // Key index of query row 0.
  TensorView segment_start;  // i32 [tokens], key indices, non-decreasing; absent: all 0
  int64_t window = 128;
  int64_t num_sinks = 4;

  int64_t Position(int64_t t) const { return query_offset + t; }
  int64_t First(int64_t t) const { return segment_start.present() ? segment_start.data<int32_t>()[t] : 0; }
  int64_t WindowBegin(int64_t t) const { return std::max(First(t), Position(t) - window + 1); }
  int64_t SinksEnd(int64_t t) const { return std::min(First(t) + num_sinks, WindowBegin(t)); }
  // Far keys are [SinksEnd(t), WindowBegin(t)).
  int64_t NumFar(int64_t t) const { return WindowBegin(t) - SinksEnd(t); }
};

// Column i of `scores` belongs to key SinksEnd(t) + i in full attention, and to candidates[t, i] in sparse
// attention; columns without a key are not read. Absent scores: no bias.
struct FarBias {
  TensorView scores;  // [tokens, columns]
  TensorView weight;  // [query_heads]
};

struct AttentionInputs {
  TensorView q;             // [tokens, query_heads, head_size], unrotated
  TensorView q_rot;         // [tokens, query_heads, head_size], rotated
  KeyRows k;                // [keys, kv_heads, head_size], unrotated; keys >= query_offset + tokens
  TensorView k_rot;         // [rotated keys, kv_heads, head_size]: keys from k_rot_begin on, rotated
  int64_t k_rot_begin = 0;  // REQUIRES: k_rot covers every query's window.
  KeyRows v;                // [keys, kv_heads, head_size]
  TensorView sink_logit;    // [query_heads]
  FarBias bias;
  AttentionSpan span;
};

// Gradients of all that AttentionInputs holds. All overwritten but those called acc.
struct AttentionInputGrads {
  TensorView dq;
  TensorView dq_rot;
  TensorView dk;
  TensorView dk_rot;
  TensorView dv;
  TensorView dsink_logit_acc;
  TensorView dbias_scores_acc;  // REQUIRED, as the next, where bias.scores is present.
  TensorView dbias_weight_acc;
};

struct FullAttentionArgs {
  AttentionInputs in;
  TensorView out;  // [tokens, query_heads, head_size]
  TensorView lse;  // [tokens, query_heads]: log of the denominator; absent: not wanted
};

// REQUIRES: query_offset = 0, k_rot_begin = 0, as many keys as tokens, k and v of the real type, unpaged.
struct FullAttentionGradArgs {
  AttentionInputs in;
  TensorView out;
  TensorView lse;
  TensorView dout;
  AttentionInputGrads grads;
};

}  // namespace sluice
