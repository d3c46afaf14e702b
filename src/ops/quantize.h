// Rounding float32 weights to the formats of ops/quantized_matrix.h, in blocks of 32 weights of a row.
//
// kQ8:  scale = f16(max|w| / 127),  code = round(w / scale) to nearest even
//       A block whose scale rounds to 0 is all zeros.
// kQ4:  the scale and minimum of least weighted square error
//         E(scale, min) = Σ_k a_k (w_k − scale · code_k − min)²
//         code_k = round((w_k − min) / scale), limited to 0 .. 15
//       a_k, the importance of input channel k, is the mean square of what reaches it
//       (model/input_squares.h): then E is the expected square error of the block's part of the product, if
//       channels are uncorrelated. Round-to-nearest, scale = f16((max w − min w) / 15) and min = f16(min w),
//       is where the search begins; it tries narrower and wider ranges, and from each of them alternates
//       between the best scale and minimum for the codes (weighted linear regression) and the best codes for
//       these, as long as E falls. All errors are those of the float16 scale and minimum. The result is never
//       worse than round-to-nearest.
// kBF16: to nearest even.
#pragma once

#include "ops/quantized_matrix.h"

namespace sluice {

// Memory of a StoredMatrix of so many rows.
struct StoredMatrixBuffer {
  StoredMatrixBuffer(WeightFormat format, int64_t rows, int64_t in);
  StoredMatrix view() const { return {codes, scales, mins}; }

  Buffer codes, scales, mins;
};

enum class Rounding {
  kNearest,       // Round-to-nearest.
  kLeastSquares,  // The least E. The same as kNearest in kQ8 and kBF16.
};

// Rounds weights [rows, in]. `importance` [experts, in] holds a_k ≥ 0 for each expert's rows / experts rows;
// absent: all 1. Throws InputError, with `what` in front, if a weight is not finite or too large for the
// format.
void QuantizeRows(WeightFormat format, const TensorView& weights, const TensorView& importance,
                  const StoredMatrix& stored, const char* what, Rounding rounding = Rounding::kLeastSquares);

// What a stored weight stands for: exact, but in kQ4 the sum is rounded to float32.
float StoredWeight(WeightFormat format, const StoredMatrix& stored, int64_t row, int64_t k);

}  // namespace sluice
