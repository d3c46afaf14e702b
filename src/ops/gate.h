// The gate of dynamic sparse attention: a two-layer MLP, run once per token, makes queries gq, head
// weights gw and keys gk (after a causal convolution); their score says which far keys a query reads:
//   score(t, s) = Σ_h softplus(gw[t, h]) · max(0, gq[t, h] · gk[s])
// The MLP itself is MatMul, Silu, MatMul and CausalConv. Far keys, windows: see attention.h.
#pragma once

#include "ops/attention.h"
#include "ops/page_map.h"
#include "tensor/tensor.h"

namespace sluice {

// Depthwise: out[t, c] = Σ_j weight[c, j] x[t − (width − 1) + j, c]; rows before the query's segment
// are zero. Rows before row 0 come from `history` (the width − 1 rows just before it).
struct CausalConvArgs {
  TensorView x;                // [tokens, channels]
  TensorView weight;           // [channels, width]
  TensorView history;          // [width − 1, channels]; absent: zeros
  TensorView segment_start;    // i32 [tokens], in key indices; absent: all 0
  int64_t first_position = 0;  // Key index of row 0.
  TensorView out;              // [tokens, channels]; may not alias x
};

// REQUIRES: first_position = 0, no history.
struct CausalConvGradArgs {
  TensorView x;
  TensorView weight;
  TensorView segment_start;
  TensorView dout;
  TensorView dx;           // Overwritten; may not alias dout.
  TensorView dweight_acc;  // [channels, width]
};

// Gate keys as they are cached: int8 with one float16 scale per key (34 bytes at size 32), in groups
// of 16 keys so that a scan's vector lanes are keys. With i = map.Slot(s), key s, channel c is at
//   packed[i / 16, c / 2, i % 16, c % 2];  gk[s, c] ≈ scale[i] · packed[...]
struct GateKeyView {
  static constexpr int64_t kGroup = 16;
  TensorView packed;     // i8 [capacity / 16, size / 2, 16, 2], size even
  TensorView scale;      // f16 [capacity], bits as uint16
  int64_t num_keys = 0;  // Keys [0, num_keys) are filled.
  PageMap map = {};      // Where they lie; of landmarks and of a tree's own keys: one after another.
};

// Quantises rows of gk into keys [first_key, first_key + tokens): scale = f16(max|gk| / 127), codes
// round(gk / scale) to nearest even, clamped to ±127; an all-zero row has scale 0.
struct PackGateKeysArgs {
  TensorView gk;  // [tokens, size]
  int64_t first_key = 0;
  GateKeyView keys;  // Written. REQUIRES: room for the rows; num_keys is not looked at.
};

// gk[i] = the packed key i, for keys [0, rows of gk).
struct UnpackGateKeysArgs {
  GateKeyView keys;
  TensorView gk;  // [rows, size]
};

// How an index over keys [0, capacity) is laid out. Groups of level l hold group · 4^l consecutive keys each,
// in as many slots; the slots of a level follow those of the level below, and group i has the i-th of them.
struct GateTreeShape {
  int64_t group = 0;  // A power of two, at least GateTreeView::kNode.
  int64_t capacity = 0;

  int64_t LevelGroup(int64_t level) const { return group << (2 * level); }
  int64_t NumLevels() const {
    int64_t levels = 0;
    while (LevelGroup(levels) <= capacity) ++levels;
    return levels;
  }
  int64_t LevelSlot(int64_t level) const {
    int64_t slot = 0;
    for (int64_t i = 0; i < level; ++i) slot += capacity / LevelGroup(i) * LevelGroup(i);
    return slot;
  }
  int64_t NumSlots() const { return LevelSlot(NumLevels()); }
};

// An index that finds a query's best far keys without scanning all of them. Keys that lie side by side in
// a text have little in common, so it sorts by content: a closed group of consecutive keys is halved along
// its axis of largest variance, and the halves again, down to nodes of 256 and leaves of 16 keys that are
// alike. A group closes with its last key and never changes; four groups are one of the next level, sorted
// anew. Nodes and leaves have a landmark, packed and scored like a key of size + 2: with centre c of the
// members and their rms distance r from it
//   landmark = [c, r / 2, 0],  a query's heads = [gq, ‖gq‖, 0]
// Leaf i has slots [16 i, 16 i + 16), ascending by key, and node i has leaves [16 i, 16 i + 16).
struct GateTreeView {
  static constexpr int64_t kLeaf = GateKeyView::kGroup;
  static constexpr int64_t kNode = 16 * kLeaf;

  GateTreeShape shape;
  int64_t num_keys = 0;  // All groups of keys [0, num_keys) are closed.
  TensorView order;      // i32 [slots]: the key in each slot
  GateKeyView keys;    // The keys by slot, capacity at least slots; num_keys is not looked at here and below.
  GateKeyView leaves;  // Landmarks, capacity at least slots / 16
  GateKeyView nodes;   // Landmarks, capacity at least slots / 256

  bool present() const { return order.present(); }
};

// Closes the groups, of every level, whose last key is in [first_key, end_key). The arithmetic is that of
// gate_tree_numerics.h in every backend, so that all build the same tree.
struct BuildGateTreeArgs {
  GateKeyView keys;  // REQUIRES: keys [0, end_key) are filled.
  int64_t first_key = 0;
  int64_t end_key = 0;
  GateTreeView tree;  // Written; tree.num_keys is not looked at.
};

// How SelectKeys searches a tree. A query whose window begins at key w covers [0, w) with the largest groups
// that closed before w, takes the `beam` best of their nodes, of those nodes' leaves the `beam` best, and
// scores exactly the far keys in them and those in no group. With a beam of all leaves that is every far key.
struct GateTreeSearch {
  GateTreeView tree;     // Absent: all far keys are scored.
  int64_t beam = 0;      // REQUIRES: 16 · beam >= width of the candidates + num_sinks.
  int64_t min_keys = 0;  // A query with w below it scores all far keys.
};

// For every query the `num_selected` far keys of highest score (all, if there are fewer), then the
// next ones by score up to the width of `candidates`. Ties go to the lower position. Scores are
// computed from the packed keys and from gq rounded to 15 bits per (token, head) (scale max|gq| /
// 16383), products summed exactly in int32; the result is exactly reproducible. The float part is in
// float32 and the same in every backend (gate_numerics.h): with c_h = softplus_f32(gw_h) · gq_scale_h,
// score = key_scale · Σ_h c_h · float(max(0, idot_h)), summed in head order h = 0, 1, … from 0 by one
// fmaf(c_h, float(max(0, idot_h)), acc) per head.
//   candidates[t, 0 .. num_selected):     the selection, ascending
//   candidates[t, num_selected .. width): the runners-up, ascending
// -1 pads each part at its end. With a tree the best are taken among what the search scores; nodes and
// leaves are ranked like keys, ties to the lower index.
struct SelectKeysArgs {
  TensorView gq;  // [tokens, gate_heads, size]
  TensorView gw;  // [tokens, gate_heads], before softplus
  GateKeyView keys;
  AttentionSpan span;
  int64_t num_selected = 0;
  TensorView candidates;  // i32 [tokens, width], width >= num_selected
  TensorView scores;      // [tokens, width]: of the candidates, 0 where absent; absent: not wanted
  GateTreeSearch search;  // REQUIRES, with a tree: no segment_start.
};

// Adaptive k: of every selection the keys of highest score that hold a share of the gate's own softmax.
//   p_j = softmax over the row's keys of their scores
//   n   = the smallest number of keys, by falling score (ties: lower position first), with Σ p >= mass,
//         at least min_keys; all of them where there are fewer
// Exponentials and sums are in float64, in that order, and the same in every backend (gate_numerics.h).
struct KeepMassArgs {
  TensorView candidates;   // i32 [tokens, width]: a selection, ascending, then -1
  TensorView scores;       // [tokens, width], of SelectKeys
  double mass = 1;         // In (0, 1].
  int64_t min_keys = 1;    // At least 1.
  TensorView kept;         // i32 [tokens, width]: the n keys, ascending, then -1; may be `candidates`
  TensorView kept_scores;  // [tokens, width]: theirs, then 0; may be `scores`
};

// Scores of listed keys, from unquantised gate keys; the training path.
struct GateScoresArgs {
  TensorView gq;          // [tokens, gate_heads, size]
  TensorView gw;          // [tokens, gate_heads], before softplus
  TensorView gk;          // [keys, size]
  TensorView candidates;  // i32 [tokens, width], -1 where absent
  int64_t num_selected = 0;
  TensorView scores;  // [tokens, width]; 0 where absent
  // [tokens]: the lowest score of the selection (columns below num_selected), or −infinity where the
  // selection has an absent column, that is where nothing was left out.
  TensorView threshold;
};
struct GateScoresGradArgs {
  TensorView gq;
  TensorView gw;
  TensorView gk;
  TensorView candidates;
  TensorView dscores;  // [tokens, width]
  TensorView dgq;      // Overwritten, as dgw and dgk.
  TensorView dgw;
  TensorView dgk;
};

// Scores of every far key, in memory: tokens × columns, so that callers go by slices of tokens. Column i
// is key SinksEnd(t) + i; 0 beyond a query's far keys. Full attention's bias (attention.h).
// REQUIRES: columns >= every NumFar(t).
struct FarScoresArgs {
  TensorView gq;  // [tokens, gate_heads, size]
  TensorView gw;  // [tokens, gate_heads]
  TensorView gk;  // [keys, size], of every far key at least
  AttentionSpan span;
  TensorView scores;  // [tokens, columns]
};

// REQUIRES: query_offset = 0, as many keys as tokens.
struct FarScoresGradArgs {
  TensorView gq;
  TensorView gw;
  TensorView gk;
  AttentionSpan span;
  TensorView dscores;  // [tokens, columns]
  TensorView dgq;      // Overwritten, as dgw and dgk.
  TensorView dgw;
  TensorView dgk;
};

// Distillation over listed keys. With q = softmax of scores over the present candidates,
//   loss[t] = (mass[t] + mass_floor) · Σ_j target_j (log target_j − log q_j),  0 log 0 = 0,
//   dscores[t, j] = scale · (mass[t] + mass_floor) · (q_j − target_j)
// Loss and gradient in one op: the target is a constant. A row whose target sums to 0 has loss 0
// and dscores 0.
struct GateKlArgs {
  TensorView scores;      // [tokens, width]
  TensorView candidates;  // i32 [tokens, width]
  TensorView target;      // [tokens, width], each row sums to 1 or is 0
  TensorView mass;        // [tokens]
  double mass_floor = 0;
  double scale = 1;
  TensorView loss;     // [tokens], without `scale`
  TensorView dscores;  // [tokens, width], overwritten
};

// The same over every far key, blockwise, never tokens × keys in memory: the target is full
// attention's mass on far keys, summed over heads and L1-normalised; mass[t] is its mean over heads
// before normalising. Attention inputs and lse (of FullAttention) are constants.
// REQUIRES: query_offset = 0, k_rot_begin = 0, as many keys as tokens, k of the real type, unpaged.
struct DenseGateKlArgs {
  AttentionInputs in;
  TensorView lse;  // [tokens, query_heads]
  TensorView gq;   // [tokens, gate_heads, size]
  TensorView gw;   // [tokens, gate_heads]
  TensorView gk;   // [keys, size]
  double mass_floor = 0;
  double scale = 1;
  TensorView loss;  // [tokens], without `scale`
  TensorView dgq;   // Overwritten, as dgw and dgk.
  TensorView dgw;
  TensorView dgk;
};

}  // namespace sluice
