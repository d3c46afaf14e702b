// Memory for the pages of any number of timelines of one model: 64 tokens each, with all that a cache keeps
// of them. Pages are counted: timelines that share a prefix share its pages, and a page is free when its last
// owner releases it. A page with several owners is never written.
//
// Each kind of row (keys of layer 3, say) has one piece of memory for all pages, so that pages with
// consecutive numbers lie side by side, and the lowest free number is given out first. Memory becomes
// resident as it is written. Counting is safe from any thread; rows are written by one.
#pragma once

#include <cstdint>
#include <mutex>
#include <queue>
#include <vector>

#include "cache/cache_shape.h"
#include "ops/gate.h"
#include "ops/key_codes.h"
#include "ops/key_rows.h"
#include "tensor/tensor.h"

namespace sluice {

class PagePool {
 public:
  // REQUIRES: num_pages > 0.
  PagePool(const KvCacheShape& shape, int64_t num_pages);

  const KvCacheShape& shape() const { return shape_; }
  int64_t num_pages() const { return num_pages_; }
  int64_t num_free() const;
  // Bytes of the pages in use, and of all.
  int64_t bytes_in_use() const { return (num_pages_ - num_free()) * shape_.BytesPerPage(); }
  int64_t bytes() const { return num_pages_ * shape_.BytesPerPage(); }

  // Appends `count` pages to `pages`, each with one owner. False, and nothing is done, if so many are not
  // free.
  bool Acquire(int64_t count, std::vector<int32_t>& pages);
  // One owner more, one less. REQUIRES: the page is in use.
  void Share(int32_t page);
  void Release(int32_t page);
  int64_t num_owners(int32_t page) const;
  // All rows of page `from` to page `to`.
  void Copy(int32_t from, int32_t to);

  // Memory of one kind of row, [pages · 64, …] or [pages, …]; which rows a timeline fills, and its page map,
  // are left to its cache.
  KeyRows Keys(int64_t layer) const { return {keys_[At(layer)].view(), ScaleOf(key_scale_, layer)}; }
  KeyRows Values(int64_t layer) const { return {values_[At(layer)].view(), ScaleOf(value_scale_, layer)}; }
  // Absent without codes.
  KeyCodeView KeyCodes(int64_t layer) const {
    if (key_distances_.empty()) return {};
    return {key_codes_[At(layer)], key_distances_[At(layer)]};
  }
  GateKeyView GateKeys(int64_t gate) const { return {gate_codes_[At(gate)], gate_scale_[At(gate)], 0}; }
  // The last rows of each page before the gate's convolution, [pages, conv_width − 1, gate head_dim].
  TensorView ConvTails(int64_t gate) const { return conv_tails_[At(gate)].view(); }
  TensorView Tokens() const { return tokens_.view(); }  // i32 [pages, 64]

  // Everything above by name, [pages, …], for files.
  struct Kind {
    std::string name;
    TensorView rows;
  };
  std::vector<Kind> Kinds() const;

  // Bug if a page is neither free nor owned, or both.
  void CheckIntegrity() const;

 private:
  static size_t At(int64_t i) { return static_cast<size_t>(i); }
  static TensorView ScaleOf(const std::vector<Buffer>& scales, int64_t layer) {
    return scales.empty() ? TensorView() : scales[At(layer)].view();
  }

  KvCacheShape shape_;
  int64_t num_pages_;
  Buffer tokens_;
  std::vector<Buffer> keys_, values_;            // [pages · 64, kv_heads, head_dim], per layer
  std::vector<Buffer> key_scale_, value_scale_;  // f16 [pages · 64, kv_heads]; kI8 only
  std::vector<Buffer> key_codes_;                // u8 [pages · 64, kv_heads, stages], absent without stages
  std::vector<Buffer> key_distances_;            // u8 [pages · 64, kv_heads]
  std::vector<Buffer> gate_codes_, gate_scale_;  // Per gate.
  std::vector<Buffer> conv_tails_;

  mutable std::mutex mutex_;
  std::vector<int32_t> owners_;
  std::priority_queue<int32_t, std::vector<int32_t>, std::greater<>> free_;
};

}  // namespace sluice
