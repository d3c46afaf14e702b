// float16: every bit pattern comes back, and rounding is to the nearest, ties to even.
#include "tensor/float16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace sluice {
namespace {

TEST(Float16, EveryPatternComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = FloatFromF16(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(FloatFromF16(F16FromFloat(value))));
    } else {
      EXPECT_EQ(F16FromFloat(value), bits);
    }
  }
}

// Between two neighbours: below the middle gives the lower, above it the upper, at it the even one.
TEST(Float16, RoundsToNearestEven) {
  for (uint16_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = FloatFromF16(bits), high = FloatFromF16(static_cast<uint16_t>(bits + 1));
    const float middle = (low + high) / 2;
    EXPECT_EQ(F16FromFloat(middle), bits % 2 == 0 ? bits : bits + 1);
    EXPECT_EQ(F16FromFloat(std::nextafter(middle, 0.0f)), bits);
    EXPECT_EQ(F16FromFloat(std::nextafter(middle, 1e9f)), bits + 1);
    EXPECT_EQ(F16FromFloat(-middle), F16FromFloat(middle) | 0x8000);
  }
}

TEST(Float16, KnownValuesAndTheEnds) {
  EXPECT_EQ(FloatFromF16(0x3c00), 1.0f);
  EXPECT_EQ(FloatFromF16(0xc000), -2.0f);
  EXPECT_EQ(FloatFromF16(0x0001), 0x1p-24f);
  EXPECT_EQ(F16FromFloat(65504.0f), 0x7bff);
  EXPECT_EQ(F16FromFloat(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(F16FromFloat(65520.0f), 0x7c00);
  EXPECT_EQ(F16FromFloat(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_EQ(F16FromFloat(0x1p-26f), 0);
}

}  // namespace
}  // namespace sluice
