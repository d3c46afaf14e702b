// Element types: sizes, names, and bfloat16 rounding against the definition.
#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace sluice {
namespace {

TEST(DTypeTest, SizesAndNames) {
  EXPECT_EQ(SizeOf(DType::kF32), 4u);
  EXPECT_EQ(SizeOf(DType::kF64), 8u);
  EXPECT_EQ(SizeOf(DType::kTracked), 16u);
  EXPECT_EQ(SizeOf(DType::kBF16), 2u);
  EXPECT_EQ(SizeOf(DType::kF16), 2u);
  EXPECT_EQ(SizeOf(DType::kI8), 1u);
  EXPECT_EQ(SizeOf(DType::kU8), 1u);
  EXPECT_EQ(SizeOf(DType::kI32), 4u);
  EXPECT_EQ(SizeOf(DType::kI64), 8u);
  EXPECT_EQ(NameOf(DType::kF32), "f32");
  EXPECT_EQ(NameOf(DType::kBF16), "bf16");
  EXPECT_EQ(NameOf(DType::kI64), "i64");
}

TEST(BF16Test, EveryBF16SurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = FloatFromBF16(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(FloatFromBF16(BF16FromFloat(value))));
    } else {
      EXPECT_EQ(BF16FromFloat(value), bits);
    }
  }
}

TEST(BF16Test, RoundsToNearestEven) {
  const float one = 1.0f, step = 0x1p-7f;
  EXPECT_EQ(FloatFromBF16(BF16FromFloat(one + 0.25f * step)), one);
  EXPECT_EQ(FloatFromBF16(BF16FromFloat(one + 0.75f * step)), one + step);
  EXPECT_EQ(FloatFromBF16(BF16FromFloat(one + 0.5f * step)), one);             // Tie, to even.
  EXPECT_EQ(FloatFromBF16(BF16FromFloat(one + 1.5f * step)), one + 2 * step);  // Tie, to even.
  EXPECT_EQ(FloatFromBF16(BF16FromFloat(-one - 0.75f * step)), -one - step);
}

TEST(BF16Test, Extremes) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(FloatFromBF16(BF16FromFloat(kInfinity)), kInfinity);
  EXPECT_EQ(FloatFromBF16(BF16FromFloat(-kInfinity)), -kInfinity);
  EXPECT_EQ(FloatFromBF16(BF16FromFloat(std::numeric_limits<float>::max())), kInfinity);
  EXPECT_TRUE(std::signbit(FloatFromBF16(BF16FromFloat(-0.0f))));
  // NaNs whose payload lies in the discarded half.
  EXPECT_TRUE(std::isnan(FloatFromBF16(BF16FromFloat(std::bit_cast<float>(0x7F800001u)))));
  EXPECT_TRUE(std::isnan(FloatFromBF16(BF16FromFloat(std::bit_cast<float>(0xFFFFFFFFu)))));
}

}  // namespace
}  // namespace sluice
