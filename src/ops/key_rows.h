// Keys or values as they are kept: in the backend's own real type, in bfloat16, or as int8 codes with one
// float16 scale per row and head; in pages or one after another. Attention reads them where they lie.
#pragma once

#include <cstdint>

#include "ops/page_map.h"
#include "tensor/tensor.h"

namespace sluice {

struct KeyRows {
  TensorView rows;   // [memory rows, kv_heads, head_size]: real, bf16 or i8
  TensorView scale;  // f16 [memory rows, kv_heads]: value = scale · code; with i8 only
  PageMap map = {};
  int64_t num_rows = 0;  // Rows [0, num_rows) are filled.

  KeyRows() = default;
  // Rows of the real type, one after another. Implicit: passes without a cache have plain tensors.
  KeyRows(const TensorView& x) : rows(x), num_rows(x.present() ? x.dim(0) : 0) {}

  // Memory of which nothing is filled yet.
  KeyRows(const TensorView& memory, const TensorView& scales) : rows(memory), scale(scales) {}

  bool present() const { return rows.present(); }
  DType dtype() const { return rows.dtype(); }
  int64_t dim(int axis) const { return axis == 0 ? num_rows : rows.dim(axis); }
  Shape shape() const { return {num_rows, rows.dim(1), rows.dim(2)}; }
  // Row s. REQUIRES: T is the type of the rows.
  template <class T>
  T* row(int64_t s) const {
    return rows.row<T>(map.Slot(s));
  }
  // The same, and the scales of its heads, where the type is known from elsewhere.
  std::byte* raw_row(int64_t s) const {
    return static_cast<std::byte*>(rows.raw()) +
           static_cast<size_t>(map.Slot(s) * rows.row_stride()) * SizeOf(rows.dtype());
  }
  uint16_t* raw_scale(int64_t s) const {
    return static_cast<uint16_t*>(scale.raw()) + map.Slot(s) * scale.row_stride();
  }
};

// Bytes of one row of `heads` heads.
inline int64_t KeyRowBytes(DType dtype, int64_t heads, int64_t size) {
  const int64_t scales = dtype == DType::kI8 ? heads * static_cast<int64_t>(SizeOf(DType::kF16)) : 0;
  return heads * size * static_cast<int64_t>(SizeOf(dtype)) + scales;
}

// rows[first_row + i] = x[i]; bf16 rounds to nearest even, int8 as PackGateKeys does, each head by itself.
struct StoreKeyRowsArgs {
  TensorView x;  // [count, kv_heads, head_size]
  int64_t first_row = 0;
  KeyRows rows;  // Written. REQUIRES: memory for the rows; num_rows is not looked at.
};

// out[i] = rows[first_row + i]; exact.
struct LoadKeyRowsArgs {
  KeyRows rows;
  int64_t first_row = 0;
  TensorView out;  // [count, kv_heads, head_size]
};

}  // namespace sluice
