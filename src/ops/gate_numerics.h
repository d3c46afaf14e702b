// The float32 arithmetic of key selection that every backend shares, so that all of them select the
// same keys from the same inputs, bit for bit. A score is
//   c_h   = GateHeadWeight(gw_h) * scale_h                     (one float32 product per head)
//   acc   = fmaf(c_h, float(max(0, idot_h)), acc), h = 0, 1, … from acc = 0
//   score = key_scale * acc
// with idot_h the exact int32 dot product of RoundGateQuery's codes and PackOneGateKey's, and scale_h
// and key_scale their scales. fmaf is a single rounding: targets without the instruction call it.
// Values that are not finite count as zero, so that scores are always ordered.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tensor/float16.h"

namespace sluice {

// |idot| <= kGateQueryMax · kGateKeyMax · size fits int32 up to this size.
inline constexpr int64_t kMaxGateSize = 1024;
inline constexpr float kGateQueryMax = 16383.0f;
inline constexpr float kGateKeyMax = 127.0f;

// softplus(gw) = log(1 + e^gw), in float64, then rounded.
inline float GateHeadWeight(float gw) {
  if (!std::isfinite(gw)) return 0.0f;
  const double x = gw;
  return static_cast<float>(std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))));
}

// The largest |x| of n values; NaNs are passed over.
inline float GateMaxAbs(const float* x, int64_t n) {
  float largest = 0.0f;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(x[i]));
  return largest;
}

// Nearest even, clamped to ±limit; NaN gives 0.
inline int32_t RoundGateCode(float x, float limit) {
  if (std::isnan(x)) return 0;
  return static_cast<int32_t>(std::nearbyint(std::clamp(x, -limit, limit)));
}

// Rounds one head's query to codes: gq[c] ≈ scale · codes[c], scale = max|gq| / 16383,
// codes[c] = round(gq[c] · (16383 / max|gq|)). Returns the scale; a row below 1e-30 (or with an
// infinity) has scale 0 and codes 0.
inline float RoundGateQuery(const float* gq, int64_t size, int16_t* codes) {
  const float largest = GateMaxAbs(gq, size);
  if (!(largest >= 1e-30f) || !std::isfinite(largest)) {
    std::fill(codes, codes + size, int16_t{0});
    return 0.0f;
  }
  const float inverse = kGateQueryMax / largest;
  for (int64_t c = 0; c < size; ++c)
    codes[c] = static_cast<int16_t>(RoundGateCode(gq[c] * inverse, kGateQueryMax));
  return largest / kGateQueryMax;
}

// Quantises one key: scale = f16(max|gk| / 127), codes[c] = round(gk[c] / scale), clamped to ±127.
// Returns the scale's bits; where the scale rounds to 0 or is not finite it is 0, and so are the codes.
// `codes` is contiguous; GateCodeOffset says where they go in a GateKeyView.
inline uint16_t PackOneGateKey(const float* gk, int64_t size, int8_t* codes) {
  const uint16_t scale_bits = F16FromFloat(GateMaxAbs(gk, size) / kGateKeyMax);
  const float scale = FloatFromF16(scale_bits);
  if (scale == 0.0f || !std::isfinite(scale)) {
    std::fill(codes, codes + size, int8_t{0});
    return 0;
  }
  for (int64_t c = 0; c < size; ++c)
    codes[c] = static_cast<int8_t>(RoundGateCode(gk[c] / scale, kGateKeyMax));
  return scale_bits;
}

// How many of n keys hold `mass` of the softmax of their scores, which fall: see KeepMassArgs.
inline int64_t GateKeysOfMass(const float* scores, int64_t n, double mass, int64_t min_keys) {
  if (n <= min_keys) return n;
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += std::exp(static_cast<double>(scores[i]) - scores[0]);
  double sum = 0;
  int64_t count = 0;
  while (count < n && (count < min_keys || sum < mass * total)) {
    sum += std::exp(static_cast<double>(scores[count]) - scores[0]);
    ++count;
  }
  return count;
}

// Index into GateKeyView::packed of key s, channel c: groups of 16 keys, channels in pairs.
inline int64_t GateCodeOffset(int64_t s, int64_t c, int64_t size) {
  return (s / 16) * (16 * size) + (c / 2) * 32 + (s % 16) * 2 + c % 2;
}

}  // namespace sluice
