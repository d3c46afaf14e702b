// Attention that proves what it did not read. A query reads window, sinks and selected keys; then, of the
// other far keys, those that may matter most, until for every head the softmax mass of all keys left out is
// at most ε. What a key may matter is known from its codes (ops/key_codes.h): for every far key s that is not
// selected
//   logit(h, s) <= B(h, s) = (q_h · k̂_s + |q_h / w| ρ_s) / √d + bias_h(s)
// and so, with Z the denominator of what was read (the sink logit included) and U = Σ exp(B) over the keys
// not read,   missed mass <= r U / (Z + r U).
// r is what float32 could have got wrong, and a little more, so that the bound holds in spite of rounding:
//   r_h = exp(2 e_h) (1 + 2^-10 + keys · 2^-23)
//   e_h = (d + 32) 2^-23 (|q_h| N / √d + |bias weight_h| S + |sink_logit_h|)
//   N = |mean| + Σ_j max_i |codewords[j, i]| + max ρ / min w
// with |q_h| the larger of q and q_rot, max ρ of the keys that the query sees, and S the largest |score| of
// its bias. N is more than the norm of any key, and of what k̂ is the sum of. A product of d terms is off by
// at most d 2^-24 |q| |k|, however it is summed, and a bound adds up to 16 of them, so both are off by less
// than e_h, and Z and U by less than a factor exp(e_h) each. The other factor is for the sums: an addition
// and at most two rescalings per key. Where 2 e_h is beyond kMaxSlack, or ρ of a key is unbounded, nothing is
// proved: all keys are read.
//
// What comes first is settled when window, sinks and selection are read, with Z_0 their denominators: a key's
// level is
//   floor(4 log2 max_h (exp(B(h, s)) / Z_0h)) + 129, no less than 1 and no more than 255
// and keys are read from the highest level down, all of a level or none, in rounds. A round reads down to the
// highest level L at which every head could be closed at best, r U_L <= κ (Z + r (U − U_L)) with U_L what is
// below L and κ = ε / (1 − ε); more would be too much, so that rounds read what one level at a time would.
// The last is when r U <= κ Z for every head. A query of which rounds would read kAllShare or more of the far
// keys that are not selected is full attention's instead, which costs less than so many keys one by one. A
// query's result depends on nothing but its own keys.
#pragma once

#include <algorithm>
#include <cmath>

#include "ops/attention.h"
#include "ops/key_codes.h"
#include "tensor/tensor.h"

namespace sluice {

struct GuaranteedAttentionArgs {
  AttentionInputs in;  // A bias has a column for every far key, as in full attention.
  // i32 [tokens, width]: far keys of each query, -1 where absent, no key twice. All are read.
  TensorView candidates;
  KeyCodebook codebook;
  KeyCodeView codes;   // REQUIRES: those of all keys that queries see, by this codebook.
  double epsilon = 0;  // REQUIRES: 0 < ε < 1
  TensorView out;      // [tokens, query_heads, head_size]
  TensorView bound;    // [tokens]: of the missed mass, the largest of all heads; <= ε, 0 where all was read
  TensorView keys_read;  // i32 [tokens]: window, sinks, selected and visited keys
};

// The numbers in the formulas above, the same in every backend.
struct GuaranteeNumerics {
  static constexpr double kMargin = 0x1p-16;     // κ is less by as much.
  static constexpr double kMaxSlack = 1;         // Of 2 e_h.
  static constexpr double kUnderflow = 0x1p-90;  // Of U / Z_0: more than terms flushed to zero sum to.
  static constexpr double kMaxTermLog2 = 100;    // Of exp(B) / Z_0: beyond, all that matters is that it is.
  static constexpr double kAllShare = 0.75;
  static constexpr int kLevels = 256;  // Level 0 is for keys that are read already.
  static constexpr int kLevelsPerOctave = 4;

  static double LogitError(int64_t head_size) { return static_cast<double>(head_size + 32) * 0x1p-23; }
  static double SumError(int64_t num_keys) { return 0x1p-10 + static_cast<double>(num_keys) * 0x1p-23; }
  // A little less, so that a bound that is rounded to float32 is still at most ε.
  static double Kappa(double epsilon) { return epsilon / (1 - epsilon) * (1 - kMargin); }
  // Of log2 max_h exp(B) / Z_0.
  template <class Real>
  static int Level(Real log2_term) {
    const Real level = std::floor(log2_term * kLevelsPerOctave) + 129;
    return static_cast<int>(std::clamp<Real>(level, 1, kLevels - 1));
  }
};

}  // namespace sluice
