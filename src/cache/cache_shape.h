// What a cache holds of one token, page and timeline, and the memory that takes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tensor/dtype.h"

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
  int64_t tree_group = 0;      // Keys in the smallest groups of each gate's tree index; 0: no trees.
  DType format = DType::kF32;  // Of keys and values: kF32, kBF16 or kI8 (ops/key_rows.h).
  // Stages of each layer's key codes (ops/key_codes.h), which a guarantee needs; empty: no codes.
  std::vector<int64_t> key_code_stages = {};

  bool operator==(const KvCacheShape&) const = default;

  // Bytes of one page: 64 tokens with their keys, values, key codes and gate keys, of all layers and gates.
  int64_t BytesPerPage() const;
  // Of them the key codes of all layers.
  int64_t KeyCodeBytesPerPage() const;
  // Bytes of a timeline of `num_tokens` tokens in a cache with room for `capacity`: its pages, its trees and
  // its own newest rows.
  int64_t BytesFor(int64_t num_tokens, int64_t capacity) const;
  // Those of the gates' trees.
  int64_t TreeBytesFor(int64_t capacity) const;
  // How many keys a tree has room for: those before the last query's window.
  int64_t TreeCapacity(int64_t capacity) const { return std::max<int64_t>(capacity - window, 0); }
  // Those of the rotated window and of the convolution's state.
  int64_t NewestBytes() const;
};

// Pages that hold `num_tokens` tokens.
int64_t PagesFor(int64_t num_tokens);

}  // namespace sluice
