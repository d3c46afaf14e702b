// The key/value cache of one timeline, with the gate's index beside it: for every layer keys
// (unrotated, after QK-norm) and values, centre and radius of every closed block of 64 keys, and the
// rotated keys of the newest window; for every gate its packed keys, the tree over them if it is wanted, and
// the raw rows that its causal convolution still needs.
//
// Memory is reserved for `capacity` tokens at once and becomes resident as it is filled. The cache
// only grows by Append and shrinks by Truncate; the model writes the new rows in between.
// Invariant: the state of the convolution is kept at every multiple of kPageTokens, so Truncate can
// return to any of them and recomputed tokens get the same bits. The tree's groups are those that the tokens
// fill, whatever the way to them.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/gate.h"
#include "ops/gate_tree_buffers.h"
#include "ops/ops.h"
#include "tensor/tensor.h"

namespace sluice {

struct KvCacheShape {
  // The larger, the more alike the keys of a leaf are, and the more keys are in no group yet and are scanned.
  static constexpr int64_t kTreeGroup = 32768;

  int64_t num_layers = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t window = 0;
  double rope_theta = 0;
  int64_t num_gates = 0;
  int64_t gate_head_dim = 0;
  int64_t gate_conv_width = 0;
  int64_t tree_group = 0;  // Keys in the smallest groups of each gate's tree index; 0: no trees.

  // Bytes of what is kept of one block of keys, in one layer: 0.8% of its keys and values at head size 64.
  int64_t BytesPerBlock() const;
  // Bytes a full cache of `capacity` tokens takes, all layers, gate index included.
  int64_t BytesFor(int64_t capacity) const;
  // Those of the gates' trees.
  int64_t TreeBytesFor(int64_t capacity) const;
};

class KvCache {
 public:
  static constexpr int64_t kPageTokens = 64;
  static_assert(kPageTokens == KeyBlockView::kBlock, "a closed block stays closed when a timeline goes back");
  // Most tokens one Append takes.
  static constexpr int64_t kMaxAppend = 4096;

  // REQUIRES: ops is a float32 backend and outlives the cache; capacity > 0.
  KvCache(Ops& ops, const KvCacheShape& shape, int64_t capacity);

  int64_t num_tokens() const { return num_tokens_; }
  int64_t capacity() const { return capacity_; }
  const KvCacheShape& shape() const { return shape_; }
  int64_t bytes() const { return shape_.BytesFor(capacity_); }

  // Makes room for the next tokens (i32 [count]): afterwards the views below have these rows for the model
  // to fill, layer by layer; Commit() makes them part of the timeline.
  // REQUIRES: 0 < count <= kMaxAppend, num_tokens + count <= capacity.
  void Append(const TensorView& tokens);
  void Commit();

  // Goes back to the largest multiple of kPageTokens not above `num_tokens` (or stays, if that is the
  // present length). Returns the new length.
  int64_t Truncate(int64_t num_tokens);
  // Back to empty, also from an Append whose pass failed before its Commit.
  void Clear();

  // The token ids held, i32 [num_tokens + appended].
  TensorView Tokens() const { return tokens_.view().Rows(0, num_tokens_ + appended_); }

  // Views over tokens [0, num_tokens + appended).
  TensorView Keys(int64_t layer) const;    // [tokens, kv_heads, head_dim]
  TensorView Values(int64_t layer) const;  // [tokens, kv_heads, head_dim]
  // Rotated keys [RotatedBegin(), num_tokens + appended).
  TensorView RotatedKeys(int64_t layer) const;
  int64_t RotatedBegin() const { return num_tokens_ - num_rotated_; }
  // The appended rows of the above.
  TensorView NewKeys(int64_t layer) const;
  TensorView NewValues(int64_t layer) const;
  TensorView NewRotatedKeys(int64_t layer) const;

  // The closed blocks of keys, those that SummarizeNewKeys has seen.
  KeyBlockView KeyBlocks(int64_t layer) const;
  // Closes the blocks that the appended keys fill. The model calls it once per layer, when it has written
  // them.
  void SummarizeNewKeys(int64_t layer);

  GateKeyView GateKeys(int64_t gate) const;
  // The tree over them; absent without trees. Its groups are closed by CloseTreeGroups, which the model calls
  // once per gate, when the appended keys are packed.
  GateTreeView GateTree(int64_t gate) const;
  void CloseTreeGroups(int64_t gate);
  // Raw gate rows just before the appended ones, [conv_width − 1, gate head_dim].
  TensorView ConvHistory(int64_t gate) const;
  // The model hands over the appended raw gate rows [appended, gate head_dim], once per gate.
  void SaveGateRows(int64_t gate, const TensorView& raw);

  // Bug if an invariant does not hold.
  void CheckIntegrity() const;

 private:
  void CheckTree(int64_t gate) const;
  // REQUIRES: `num_tokens` is a multiple of kPageTokens.
  void ReturnTo(int64_t num_tokens);
  void RecomputeRotated();
  // The blocks of a layer are those of its keys, bit for bit.
  void CheckBlocks(int64_t layer) const;

  Ops& ops_;
  KvCacheShape shape_;
  int64_t capacity_;
  int64_t num_tokens_ = 0;
  int64_t appended_ = 0;
  int64_t num_rotated_ = 0;  // Rotated keys held of tokens before num_tokens_: at most window − 1.
  Buffer tokens_;
  std::vector<Buffer> keys_;
  std::vector<Buffer> values_;
  std::vector<Buffer> block_centre_;  // [blocks, kv_heads, head_dim]
  std::vector<Buffer> block_radius_;  // [blocks, kv_heads]
  std::vector<Buffer> block_norm_;    // [blocks, kv_heads]
  std::vector<Buffer> rotated_;       // [window − 1 + kMaxAppend, kv_heads, head_dim]
  std::vector<GateKeyBuffer> gate_keys_;
  std::vector<GateTreeBuffer> trees_;
  std::vector<Buffer> conv_tail_;   // Raw rows before num_tokens_: [conv_width − 1, gate head_dim]
  std::vector<Buffer> conv_pages_;  // The tail at every page start: [pages, conv_width − 1, gate head_dim]
};

}  // namespace sluice
