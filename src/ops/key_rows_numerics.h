// How rows of keys and values are rounded and read back (ops/key_rows.h), the same in every backend.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/gate_numerics.h"
#include "ops/key_rows.h"
#include "tensor/float16.h"

namespace sluice {

// Rounds one head's row x [size] into row s of rows in bfloat16 or int8.
inline void EncodeKeyRow(const float* x, const KeyRows& rows, int64_t s, int64_t head) {
  const int64_t size = rows.dim(2);
  if (rows.dtype() == DType::kBF16) {
    auto* bits = reinterpret_cast<uint16_t*>(rows.raw_row(s)) + head * size;
    for (int64_t c = 0; c < size; ++c) bits[c] = BF16FromFloat(x[c]);
    return;
  }
  auto* codes = reinterpret_cast<int8_t*>(rows.raw_row(s)) + head * size;
  rows.raw_scale(s)[head] = PackOneGateKey(x, size, codes);
}

// The values of one head's row s of rows in float32, bfloat16 or int8; exact.
inline void DecodeKeyRow(const KeyRows& rows, int64_t s, int64_t head, float* x) {
  const int64_t size = rows.dim(2);
  const std::byte* row = rows.raw_row(s) + static_cast<size_t>(head * size) * SizeOf(rows.dtype());
  if (rows.dtype() == DType::kF32) {
    std::copy_n(reinterpret_cast<const float*>(row), size, x);
  } else if (rows.dtype() == DType::kBF16) {
    const auto* bits = reinterpret_cast<const uint16_t*>(row);
    for (int64_t c = 0; c < size; ++c) x[c] = FloatFromBF16(bits[c]);
  } else {
    const auto* codes = reinterpret_cast<const int8_t*>(row);
    const float scale = FloatFromF16(rows.raw_scale(s)[head]);
    for (int64_t c = 0; c < size; ++c) x[c] = scale * static_cast<float>(codes[c]);
  }
}

// The same where they lie if they are float32, else decoded into `scratch` [head_size].
inline const float* KeyRowValues(const KeyRows& rows, int64_t s, int64_t head, float* scratch) {
  if (rows.dtype() == DType::kF32) return rows.row<float>(s) + head * rows.dim(2);
  DecodeKeyRow(rows, s, head, scratch);
  return scratch;
}

}  // namespace sluice
