// Codes of keys: a few bytes each that say about where a key lies and how far off that is at most, by
// residual quantisation (Chen, Guan, Wang: Approximate nearest neighbor search by residual vector
// quantization, 2010). With a codebook of J stages and the codes i_1 .. i_J of a key k,
//   k̂ = mean + Σ_j codewords[j, i_j],   ρ >= |w ∘ (k − k̂)|
// so that for every query q
//   q · k <= q · k̂ + |q / w| ρ
// whatever the codebook is; a good one makes ρ small. The weights w, which stand for how much queries care
// about each channel, make |q / w| ρ small. Without stages k̂ is the mean, and ρ all that is known.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "ops/key_rows.h"
#include "tensor/tensor.h"

namespace sluice {

// One layer's, all finite.
struct KeyCodebook {
  static constexpr int64_t kCodewords = 256;  // Of a stage.
  static constexpr int64_t kMaxStages = 16;   // What the rounding that a guarantee allows for is enough for.

  TensorView mean;    // [kv_heads, head_size]
  TensorView weight;  // [kv_heads, head_size]; > 0
  TensorView
      codewords;  // [kv_heads, J · 256, head_size], a stage's one after another, J <= 16; absent: J = 0

  int64_t num_stages() const { return codewords.present() ? codewords.dim(1) / kCodewords : 0; }
};

struct KeyCodeView {
  TensorView codes;     // u8 [memory rows, kv_heads, J]; absent without stages
  TensorView distance;  // u8 [memory rows, kv_heads]: ρ as KeyCodeNumerics has it
  PageMap map = {};
  int64_t num_keys = 0;  // Keys [0, num_keys) are encoded.

  bool present() const { return distance.present(); }
  uint8_t* Codes(int64_t key) const { return codes.row<uint8_t>(map.Slot(key)); }
  uint8_t* Distance(int64_t key) const { return distance.row<uint8_t>(map.Slot(key)); }
};

// Bytes of the codes of one key and head.
inline int64_t KeyCodeBytes(int64_t num_stages) {
  return num_stages + 1;
}

// Encodes keys [first_key, end_key): with x_0 = k − mean and x_j = x_(j−1) − codewords[j, i_j],
//   i_j = argmin |w ∘ (x_(j−1) − codewords[j, i])|, that is, argmax (w² ∘ x_(j−1)) · c − |w ∘ c|² / 2 over
//   the
//         codewords c; the lowest of several
//   distance code = the lowest whose ρ is at least (1 + 2^-16) |w ∘ (k − k̂)| + 2^-60
// where what is added is more than rounding may take away: the last norm is computed in float64.
struct EncodeKeysArgs {
  KeyRows k;
  int64_t first_key = 0;
  int64_t end_key = 0;  // REQUIRES: at most k.num_rows
  KeyCodebook codebook;
  KeyCodeView codes;  // Written. REQUIRES: memory for the keys; num_keys is not looked at.
};

// The numbers in the formulas above, the same in every backend.
struct KeyCodeNumerics {
  static constexpr double kMargin = 0x1p-16;
  static constexpr double kSmallest = 0x1p-60;  // What squares may lose to underflow.
  static constexpr int kUnbounded = 255;        // Nothing is known: the key is beyond all ρ, or not finite.
  static constexpr int kStepsPerOctave = 16;

  // ρ of all distance codes: 2^-8 to 2^7.9, and infinity.
  static const std::array<float, 256>& Distances() {
    static const std::array<float, 256> distances = [] {
      std::array<float, 256> values{};
      for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>(std::exp2(static_cast<double>(i) / kStepsPerOctave - 8));
      values[kUnbounded] = std::numeric_limits<float>::infinity();
      return values;
    }();
    return distances;
  }
  // REQUIRES: `norm` is not negative, or NaN.
  static uint8_t CodeOf(double norm) {
    const auto& distances = Distances();
    const double wanted = norm * (1 + kMargin) + kSmallest;
    if (std::isnan(wanted)) return kUnbounded;
    return static_cast<uint8_t>(std::ranges::lower_bound(distances, wanted) - distances.begin());
  }
};

}  // namespace sluice
