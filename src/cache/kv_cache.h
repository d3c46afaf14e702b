// The key/value cache of one timeline, with the gate's index beside it, in pages of 64 tokens from a pool
// (page_pool.h): for every layer keys (unrotated, after QK-norm) and values, and codes of the keys if a
// guarantee wants them; for every gate its packed keys and the rows that its causal convolution still needs.
// The rotated keys of the newest window, and the trees over the gates' keys if they are wanted, are the
// timeline's own.
//
// The cache only grows by Append and shrinks by Truncate; the model writes the new rows in between.
// Invariants: keys and values are read as they were rounded, also by the pass that made them, so that
// recomputed tokens get the same bits. The state of the convolution is kept at every multiple of kPageTokens,
// so Truncate can return to any of them. A page that others own too is not written: the last one is copied
// first. The tree's groups are those that the tokens fill, whatever the way to them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/page_pool.h"
#include "ops/gate.h"
#include "ops/gate_tree_buffers.h"
#include "ops/ops.h"
#include "tensor/tensor.h"

namespace sluice {

class KvCache {
 public:
  static constexpr int64_t kPageTokens = kPageRows;
  // Most tokens one Append takes.
  static constexpr int64_t kMaxAppend = 4096;
  // Most tokens of an Append of which Commit may take a part.
  static constexpr int64_t kMaxTail = 64;

  // A timeline of up to `capacity` tokens over pages of a pool, which others may use as well; trees with
  // groups of `tree_group` keys, 0: none. REQUIRES: ops is a float32 backend and outlives the cache; capacity
  // > 0.
  KvCache(Ops& ops, std::shared_ptr<PagePool> pool, int64_t capacity, int64_t tree_group);
  // With a pool of its own that holds just that.
  KvCache(Ops& ops, const KvCacheShape& shape, int64_t capacity);
  ~KvCache();
  KvCache(KvCache&&) = default;
  KvCache(const KvCache&) = delete;
  // The same timeline again, over the same pages.
  KvCache Fork() const;

  int64_t num_tokens() const { return num_tokens_; }
  int64_t capacity() const { return capacity_; }
  const KvCacheShape& shape() const { return shape_; }
  const std::shared_ptr<PagePool>& pool() const { return pool_; }
  // The pages held, in order: those of the tokens, then what is reserved.
  const std::vector<int32_t>& pages() const { return pages_; }
  // Bytes held: pages (shared ones too), trees, newest rows.
  int64_t bytes() const;

  // Takes pages from the pool for `count` more tokens. False, and nothing is done, if too few are free.
  // REQUIRES: num_tokens + count <= capacity.
  bool Reserve(int64_t count);

  // Makes room for the next tokens (i32 [count]): afterwards the views below have these rows for the model
  // to fill, layer by layer; Commit() makes the first `count` of them, all by default, part of the timeline.
  // REQUIRES: 0 < count <= kMaxAppend, num_tokens + count <= capacity, and the pool has the pages.
  void Append(const TensorView& tokens);
  // REQUIRES: all, or of at most kMaxTail appended tokens any number.
  void Commit(int64_t count);
  void Commit() { Commit(appended_); }

  // Goes back to the largest multiple of kPageTokens not above `num_tokens` (or stays, if that is the
  // present length). Returns the new length.
  int64_t Truncate(int64_t num_tokens);
  // Back to empty, also from an Append whose pass failed before its Commit.
  void Clear();
  // Makes whole pages of another timeline of the same model and pass options the timeline's tokens. The
  // caller's share of each becomes the cache's. REQUIRES: the cache is empty.
  void Adopt(const std::vector<int32_t>& pages);

  // Copies the ids of tokens [begin, end), of those held and appended.
  void CopyTokens(int64_t begin, int64_t end, int32_t* out) const;

  // Rows of tokens [0, num_tokens + appended), [tokens, kv_heads, head_dim].
  KeyRows Keys(int64_t layer) const { return Rows(pool_->Keys(layer)); }
  KeyRows Values(int64_t layer) const { return Rows(pool_->Values(layer)); }
  // Rotated keys [RotatedBegin(), num_tokens + appended): the model fills the appended rows of what
  // RotatedKeys gives, which is scratch of the pass, and hands it back.
  TensorView RotatedKeys(int64_t layer, Arena& arena) const;
  int64_t RotatedBegin() const { return num_tokens_ - num_rotated_; }
  void SaveRotatedKeys(int64_t layer, const TensorView& rotated);

  // Codes of the keys of tokens [0, num_tokens + appended), those that EncodeNewKeys has seen; absent unless
  // the shape has them.
  KeyCodeView KeyCodes(int64_t layer) const;
  // Encodes the appended keys, if the shape has codes. The model calls it once per layer, when it has written
  // them. REQUIRES: a codebook of the shape's stages, always the same.
  void EncodeNewKeys(int64_t layer, const KeyCodebook& codebook);

  GateKeyView GateKeys(int64_t gate) const;
  // The tree over them; absent without trees. Its groups are closed by CloseTreeGroups, which the model calls
  // once per gate, when the appended keys are packed.
  GateTreeView GateTree(int64_t gate) const;
  void CloseTreeGroups(int64_t gate);
  // Raw gate rows just before the appended ones, [conv_width − 1, gate head_dim].
  TensorView ConvHistory(int64_t gate) const;
  // The model hands over the appended raw gate rows [appended, gate head_dim], once per gate.
  void SaveGateRows(int64_t gate, const TensorView& raw);

  // The newest rows before the convolution, which a timeline that ends inside a page cannot find in its
  // pages. For files: see cache_file.h.
  void RestoreTail(int64_t num_tokens, const std::vector<TensorView>& conv_history);

  // Bug if an invariant does not hold.
  void CheckIntegrity() const;

 private:
  void CheckTree(int64_t gate) const;
  // REQUIRES: `num_tokens` is a multiple of kPageTokens.
  void ReturnTo(int64_t num_tokens);
  void ReleasePagesFrom(int64_t page);
  void RecomputeRotated();
  void RebuildTrees();
  KeyRows Rows(KeyRows memory) const;

  Ops& ops_;
  std::shared_ptr<PagePool> pool_;
  KvCacheShape shape_;
  int64_t capacity_;
  std::vector<int32_t> pages_;
  int64_t num_tokens_ = 0;
  int64_t appended_ = 0;
  int64_t num_rotated_ = 0;        // Rotated keys held of tokens before num_tokens_: at most window − 1,
  int64_t first_rotated_ = 0;      // from this row of their buffers on.
  std::vector<Buffer> rotated_;    // [window − 1 + kMaxTail, kv_heads, head_dim], per layer
  std::vector<Buffer> gate_rows_;  // The conv_width − 1 raw rows before num_tokens_, then kMaxTail appended.
  std::vector<GateTreeBuffer> trees_;
};

}  // namespace sluice
