// Rounding to the formats: what is stored stands for the weights, packing keeps it, and the search of Q4
// pays.
#include "ops/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/random.h"
#include "tensor/float16.h"

namespace sluice {
namespace {

using enum WeightFormat;
constexpr int64_t kBlock = QuantizedMatrix::kBlock;

Buffer RandomValues(int64_t rows, int64_t in, uint64_t seed) {
  Buffer values(DType::kF32, {rows, in});
  Random random(seed);
  for (int64_t i = 0; i < rows * in; ++i)
    values.view().data<float>()[i] = static_cast<float>(random.Normal());
  return values;
}

class QuantizeRowsTest : public testing::TestWithParam<WeightFormat> {};

TEST_P(QuantizeRowsTest, PackedWeightsAreTheStoredOnes) {
  constexpr int64_t kExperts = 3, kOut = 19, kIn = 96;
  const Buffer weights = RandomValues(kExperts * kOut, kIn, 5);
  const StoredMatrixBuffer stored(GetParam(), kExperts * kOut, kIn);
  QuantizeRows(GetParam(), weights, {}, stored.view(), "weights");
  const QuantizedMatrixBuffer matrix(GetParam(), kExperts, kOut, kIn);
  matrix.Pack(stored.view());
  for (int64_t r = 0; r < kExperts * kOut; ++r) {
    for (int64_t k = 0; k < kIn; ++k) {
      ASSERT_EQ(matrix.view().Weight(r / kOut, r % kOut, k), StoredWeight(GetParam(), stored.view(), r, k))
          << r << ", " << k;
    }
  }
}

// In what order panels are packed does not show.
TEST_P(QuantizeRowsTest, StackedMatricesArePackedAlike) {
  constexpr int64_t kExperts = 2, kOut = 2 * 80, kIn = 32;
  const Buffer weights = RandomValues(kExperts * kOut, kIn, 6);
  const StoredMatrixBuffer stored(GetParam(), kExperts * kOut, kIn);
  QuantizeRows(GetParam(), weights, {}, stored.view(), "weights");
  const QuantizedMatrixBuffer matrix(GetParam(), kExperts, kOut, kIn);
  matrix.Pack(stored.view(), 2);
  for (int64_t r = 0; r < kExperts * kOut; ++r) {
    for (int64_t k = 0; k < kIn; ++k)
      ASSERT_EQ(matrix.view().Weight(r / kOut, r % kOut, k), StoredWeight(GetParam(), stored.view(), r, k));
  }
}

TEST_P(QuantizeRowsTest, ErrorsStayWithinHalfAStep) {
  const Buffer weights = RandomValues(19, 96, 5);
  const StoredMatrixBuffer stored(GetParam(), 19, 96);
  QuantizeRows(GetParam(), weights, {}, stored.view(), "weights", Rounding::kNearest);
  double worst = 0;
  for (int64_t r = 0; r < 19; ++r) {
    for (int64_t k = 0; k < 96; ++k) {
      const double w = weights.view().row<float>(r)[k];
      const double step =
          GetParam() == kBF16
              ? std::exp2(std::floor(std::log2(std::abs(w))) - 7)
              : FloatFromF16(static_cast<uint16_t*>(stored.scales.view().raw())[(r * 96 + k) / kBlock]);
      worst = std::max(worst, std::abs(StoredWeight(GetParam(), stored.view(), r, k) - w) / step);
    }
  }
  // Half a step, and where a scale was rounded down (in Q4 with the minimum) what clamping cuts off.
  EXPECT_LE(worst, 0.5 + 127 * 0x1p-11);
  EXPECT_GT(worst, 0.4);
}

TEST_P(QuantizeRowsTest, WrongWeightsAreErrors) {
  const Buffer weights(DType::kF32, {2, kBlock});
  const StoredMatrixBuffer stored(GetParam(), 2, kBlock);
  weights.view().row<float>(1)[3] = 1e-9f;
  QuantizeRows(GetParam(), weights, {}, stored.view(), "weights");
  EXPECT_NEAR(StoredWeight(GetParam(), stored.view(), 1, 3), 0, 1.01e-9);
  for (const float wrong :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 3.4e38f}) {
    weights.view().row<float>(1)[3] = wrong;
    try {
      QuantizeRows(GetParam(), weights, {}, stored.view(), "the tensor");
      FAIL() << wrong;
    } catch (const InputError& error) {
      EXPECT_THAT(error.what(),
                  testing::AllOf(testing::HasSubstr("the tensor"), testing::HasSubstr("row 1")));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, QuantizeRowsTest, testing::Values(kQ8, kQ4, kBF16),
                         [](const auto& format) { return NameOf(format.param); });

// Σ a (w − rounded w)² of each block.
std::vector<double> BlockErrors(const TensorView& weights, const TensorView& importance, Rounding rounding) {
  const int64_t rows = weights.dim(0), in = weights.dim(1);
  const StoredMatrixBuffer stored(kQ4, rows, in);
  QuantizeRows(kQ4, weights, importance, stored.view(), "weights", rounding);
  std::vector<double> errors(static_cast<size_t>(rows * in / kBlock));
  for (int64_t r = 0; r < rows; ++r) {
    const float* a = importance.row<float>(r / (rows / importance.dim(0)));
    for (int64_t k = 0; k < in; ++k) {
      const double error = weights.row<float>(r)[k] - StoredWeight(kQ4, stored.view(), r, k);
      errors[static_cast<size_t>((r * in + k) / kBlock)] += a[k] * error * error;
    }
  }
  return errors;
}

TEST(Q4, LeastSquaresBeatsRoundToNearest) {
  const Buffer weights = RandomValues(40, 256, 7);
  const Buffer importance = RandomValues(2, 256, 8);
  for (int64_t i = 0; i < 512; ++i) {  // Squares of normals: as uneven as activations are.
    float& a = importance.view().data<float>()[i];
    a *= a;
  }
  const std::vector<double> nearest = BlockErrors(weights, importance, Rounding::kNearest);
  const std::vector<double> best = BlockErrors(weights, importance, Rounding::kLeastSquares);
  double sum_nearest = 0, sum_best = 0;
  for (size_t i = 0; i < nearest.size(); ++i) {
    EXPECT_LE(best[i], nearest[i] * (1 + 1e-6)) << "block " << i;
    sum_nearest += nearest[i];
    sum_best += best[i];
  }
  EXPECT_LT(sum_best, 0.6 * sum_nearest);
}

TEST(Q4, ImportanceOfEachExpertCounts) {
  // The same rows for both experts, which differ in what they are fed.
  const Buffer one = RandomValues(8, 64, 9);
  Buffer weights(DType::kF32, {16, 64});
  for (int64_t r = 0; r < 16; ++r)
    std::copy_n(one.view().row<float>(r % 8), 64, weights.view().row<float>(r));
  Buffer importance(DType::kF32, {2, 64});
  for (int64_t k = 0; k < 64; ++k) {
    importance.view().row<float>(0)[k] = k % 2 == 0 ? 1.0f : 1e-4f;
    importance.view().row<float>(1)[k] = k % 2 == 0 ? 1e-4f : 1.0f;
  }
  const StoredMatrixBuffer stored(kQ4, 16, 64);
  QuantizeRows(kQ4, weights, importance, stored.view(), "weights");
  const auto error = [&](int64_t expert, int64_t parity) {
    double sum = 0;
    for (int64_t r = expert * 8; r < expert * 8 + 8; ++r) {
      for (int64_t k = parity; k < 64; k += 2) {
        sum += std::pow(weights.view().row<float>(r)[k] - StoredWeight(kQ4, stored.view(), r, k), 2);
      }
    }
    return sum;
  };
  EXPECT_LT(error(0, 0), 0.7 * error(1, 0));
  EXPECT_LT(error(1, 1), 0.7 * error(0, 1));
}

TEST(Q4, BlocksOfOneValueAreExact) {
  Buffer weights(DType::kF32, {1, 2 * kBlock});
  std::fill_n(weights.view().data<float>(), kBlock, -0.75f);
  const StoredMatrixBuffer stored(kQ4, 1, 2 * kBlock);
  QuantizeRows(kQ4, weights, {}, stored.view(), "weights");
  for (int64_t k = 0; k < 2 * kBlock; ++k) {
    EXPECT_EQ(StoredWeight(kQ4, stored.view(), 0, k), k < kBlock ? -0.75f : 0.0f);
  }
}

}  // namespace
}  // namespace sluice
