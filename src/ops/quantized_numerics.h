// The float32 arithmetic of quantised products that every backend shares, so that all of them multiply the
// same codes: how a block of 32 activations becomes 8 bits. See ops/quantized_matmul.h.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "ops/quantized_matrix.h"

namespace sluice {

inline constexpr float kQuantizedMax = 127.0f;
// Blocks with no larger value than this count as zero: 127 / max would overflow soon after.
inline constexpr float kQuantizedSmallest = 1e-30f;

// One block of activations: x ≈ scale · code.
//   scale = max|x| / 127,  code = round(x · (127 / max|x|)) to nearest even: in [-127, 127]
// A block below kQuantizedSmallest has scale 0 and codes 0; one that holds a NaN or an infinity has scale NaN
// and codes 0. Returns the scale.
inline float QuantizeActivationBlock(const float* x, int8_t* codes) {
  // As integers: NaN > infinity > every finite magnitude.
  uint32_t largest_bits = 0;
  for (int64_t i = 0; i < QuantizedMatrix::kBlock; ++i) {
    largest_bits = std::max(largest_bits, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  }
  const auto largest = std::bit_cast<float>(largest_bits);
  if (!(largest >= kQuantizedSmallest) || std::isinf(largest)) {
    std::fill_n(codes, QuantizedMatrix::kBlock, int8_t{0});
    return largest < kQuantizedSmallest ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  }
  const float inverse = kQuantizedMax / largest;
  for (int64_t i = 0; i < QuantizedMatrix::kBlock; ++i) {
    codes[i] = static_cast<int8_t>(std::nearbyint(x[i] * inverse));
  }
  return largest / kQuantizedMax;
}

}  // namespace sluice
