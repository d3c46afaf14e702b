#include "ops/quantize.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "base/threads.h"
#include "ops/quantized_numerics.h"
#include "tensor/float16.h"

namespace sluice {
namespace {

constexpr int64_t kBlock = QuantizedMatrix::kBlock;
constexpr int64_t kRowsPerTask = 64;
constexpr int kQ4Max = 15;

struct Q4Block {
  uint16_t scale = 0, min = 0;  // float16
  std::array<uint8_t, kBlock> codes{};
  double error = 0;  // E
};

// The best codes for this scale and minimum, which are rounded to float16 first.
Q4Block WithBestCodes(const float* w, const float* importance, double scale, double min) {
  Q4Block block;
  block.scale = F16FromFloat(static_cast<float>(scale));
  block.min = F16FromFloat(static_cast<float>(min));
  const double step = FloatFromF16(block.scale), low = FloatFromF16(block.min);
  const double inverse = step > 0 ? 1 / step : 0;
  for (size_t k = 0; k < kBlock; ++k) {
    const double code = std::clamp(std::nearbyint((w[k] - low) * inverse), 0.0, double{kQ4Max});
    const double error = w[k] - (step * code + low);
    block.codes[k] = static_cast<uint8_t>(code);
    block.error += importance[k] * error * error;
  }
  return block;
}

// Weighted linear regression of the weights on the block's codes. False if the codes do not tell a scale.
bool BestScale(const float* w, const float* importance, const Q4Block& block, double& scale, double& min) {
  double sum = 0, sum_c = 0, sum_cc = 0, sum_w = 0, sum_cw = 0;
  for (size_t k = 0; k < kBlock; ++k) {
    const double a = importance[k], c = block.codes[k];
    sum += a;
    sum_c += a * c;
    sum_cc += a * c * c;
    sum_w += a * w[k];
    sum_cw += a * c * w[k];
  }
  const double spread = sum * sum_cc - sum_c * sum_c;
  if (!(spread > 1e-12 * sum * sum_cc)) return false;
  scale = (sum * sum_cw - sum_c * sum_w) / spread;
  min = (sum_cc * sum_w - sum_c * sum_cw) / spread;
  return scale > 0;
}

Q4Block RoundToNearest(const float* w, const float* importance) {
  const auto [low, high] = std::minmax_element(w, w + kBlock);
  return WithBestCodes(w, importance, (double{*high} - *low) / kQ4Max, *low);
}

// Alternates between codes and regression from `block` on.
Q4Block Refine(const float* w, const float* importance, Q4Block block) {
  constexpr int kMaxRounds = 8;
  double scale = 0, min = 0;
  for (int round = 0; round < kMaxRounds && BestScale(w, importance, block, scale, min); ++round) {
    const Q4Block next = WithBestCodes(w, importance, scale, min);
    if (!(next.error < block.error)) break;
    block = next;
  }
  return block;
}

Q4Block LeastSquares(const float* w, const float* importance) {
  // A range cut by up to a quarter at each end, or a little wider than it is: where refining begins.
  constexpr int kCuts = 5;
  constexpr double kCut = 0.06;
  const auto [low, high] = std::minmax_element(w, w + kBlock);
  const double range = double{*high} - *low;
  Q4Block best = Refine(w, importance, RoundToNearest(w, importance));
  for (int below = -1; below < kCuts; ++below) {
    for (int above = -1; above < kCuts; ++above) {
      const double min = *low + kCut * below * range;
      const double scale = (*high - kCut * above * range - min) / kQ4Max;
      const Q4Block tried = Refine(w, importance, WithBestCodes(w, importance, scale, min));
      if (tried.error < best.error) best = tried;
    }
  }
  return best;
}

// False: the scale is beyond float16.
bool QuantizeQ8Block(const float* w, int8_t* codes, uint16_t* scale_bits) {
  float largest = 0;
  for (int64_t i = 0; i < kBlock; ++i) largest = std::max(largest, std::abs(w[i]));
  *scale_bits = F16FromFloat(largest / kQuantizedMax);
  const float scale = FloatFromF16(*scale_bits);
  if (!std::isfinite(scale)) return false;
  for (int64_t i = 0; i < kBlock; ++i) {
    const float code = scale > 0 ? std::nearbyint(w[i] / scale) : 0.0f;
    codes[i] = static_cast<int8_t>(std::clamp(code, -kQuantizedMax, kQuantizedMax));
  }
  return true;
}

// Two codes a byte. False: the scale or the minimum is beyond float16.
bool QuantizeQ4Block(const float* w, const float* importance, Rounding rounding, uint8_t* codes,
                     uint16_t* scale_bits, uint16_t* min_bits) {
  const Q4Block nearest = RoundToNearest(w, importance);
  if (!std::isfinite(FloatFromF16(nearest.scale)) || !std::isfinite(FloatFromF16(nearest.min))) return false;
  const Q4Block block = rounding == Rounding::kNearest ? nearest : LeastSquares(w, importance);
  *scale_bits = block.scale;
  *min_bits = block.min;
  for (size_t i = 0; i < kBlock / 2; ++i) {
    codes[i] = static_cast<uint8_t>(block.codes[2 * i] | block.codes[2 * i + 1] << 4);
  }
  return true;
}

uint16_t* Halves(const TensorView& view, int64_t row) {
  return static_cast<uint16_t*>(view.raw()) + row * view.row_stride();
}

void QuantizeBlocks(WeightFormat format, const float* w, int64_t in, const float* importance,
                    const StoredMatrix& stored, int64_t row, const char* what, Rounding rounding) {
  for (int64_t b = 0; b < in / kBlock; ++b) {
    const int64_t k = b * kBlock;
    bool fits = std::all_of(w + k, w + k + kBlock, [](float value) { return std::isfinite(value); });
    if (fits && format == WeightFormat::kQ8) {
      fits = QuantizeQ8Block(w + k, stored.codes.row<int8_t>(row) + k, Halves(stored.scales, row) + b);
    } else if (fits) {
      fits = QuantizeQ4Block(w + k, importance + k, rounding, stored.codes.row<uint8_t>(row) + k / 2,
                             Halves(stored.scales, row) + b, Halves(stored.mins, row) + b);
    }
    if (fits) continue;
    throw InputError(
        "{}: row {} has a weight between columns {} and {} that is not finite or above {}; {} cannot hold "
        "it: take "
        "the weights from a checkpoint before the training went wrong",
        what, row, k, k + kBlock - 1, format == WeightFormat::kQ8 ? "8,000,000" : "65,000", NameOf(format));
  }
}

void RoundToBF16(const float* w, int64_t in, const StoredMatrix& stored, int64_t row, const char* what) {
  for (int64_t k = 0; k < in; ++k) {
    const uint16_t bits = BF16FromFloat(w[k]);
    Halves(stored.codes, row)[k] = bits;
    if (std::isfinite(FloatFromBF16(bits))) continue;
    throw InputError(
        "{}: row {} has the weight {} at column {}; take the weights from a checkpoint before the "
        "training went wrong",
        what, row, w[k], k);
  }
}

}  // namespace

StoredMatrixBuffer::StoredMatrixBuffer(WeightFormat format, int64_t rows, int64_t in) {
  SLUICE_CHECK(format != WeightFormat::kFloat);
  if (format == WeightFormat::kBF16) {
    codes = Buffer(DType::kBF16, {rows, in});
    return;
  }
  const bool is_q4 = format == WeightFormat::kQ4;
  codes = is_q4 ? Buffer(DType::kU8, {rows, in / 2}) : Buffer(DType::kI8, {rows, in});
  scales = Buffer(DType::kF16, {rows, in / kBlock});
  if (is_q4) mins = Buffer(DType::kF16, {rows, in / kBlock});
}

void QuantizeRows(WeightFormat format, const TensorView& weights, const TensorView& importance,
                  const StoredMatrix& stored, const char* what, Rounding rounding) {
  const int64_t rows = weights.dim(0), in = weights.dim(1);
  SLUICE_CHECK_EQ(stored.codes.dim(0), rows);
  if (HasBlocks(format)) SLUICE_CHECK_EQ(in % kBlock, 0);
  const std::vector<float> ones(static_cast<size_t>(in), 1.0f);
  const int64_t experts = importance.present() ? importance.dim(0) : 1;
  if (importance.present()) SLUICE_CHECK_EQ(importance.dim(1), in);
  SLUICE_CHECK_EQ(rows % experts, 0);
  ParallelForRange(rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* w = weights.row<float>(row);
      if (format == WeightFormat::kBF16) {
        RoundToBF16(w, in, stored, row, what);
      } else {
        const float* a = importance.present() ? importance.row<float>(row / (rows / experts)) : ones.data();
        QuantizeBlocks(format, w, in, a, stored, row, what, rounding);
      }
    }
  });
}

float StoredWeight(WeightFormat format, const StoredMatrix& stored, int64_t row, int64_t k) {
  if (format == WeightFormat::kBF16) return FloatFromBF16(Halves(stored.codes, row)[k]);
  const float scale = FloatFromF16(Halves(stored.scales, row)[k / kBlock]);
  if (format == WeightFormat::kQ8) return scale * static_cast<float>(stored.codes.row<int8_t>(row)[k]);
  const int code = stored.codes.row<uint8_t>(row)[k / 2] >> (k % 2 == 0 ? 0 : 4) & 15;
  return scale * static_cast<float>(code) + FloatFromF16(Halves(stored.mins, row)[k / kBlock]);
}

}  // namespace sluice
