// Random numbers: the published test vectors of Philox-4x32-10, streams that differ, and moments of
// the derived distributions.
#include "base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "base/error.h"

namespace sluice {
namespace {

using Block = std::array<uint32_t, 4>;

TEST(PhiloxTest, PublishedVectors) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomTest, FollowsTheBlocks) {
  Random random(0);
  for (const uint32_t expected : {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u})
    EXPECT_EQ(random.NextU32(), expected);
  EXPECT_EQ(random.NextU32(), Philox4x32({1, 0, 0, 0}, {0, 0})[0]);
}

TEST(RandomTest, SameSeedSameNumbersOtherStreamOthers) {
  const auto draw = [](uint64_t seed, uint64_t stream) {
    Random random(seed, stream);
    std::vector<uint64_t> values;
    for (int i = 0; i < 100; ++i) values.push_back(random.NextU64());
    return values;
  };
  EXPECT_EQ(draw(7, 3), draw(7, 3));
  EXPECT_NE(draw(7, 3), draw(8, 3));
  EXPECT_NE(draw(7, 3), draw(7, 4));
  EXPECT_NE(draw(7, 3), draw(7, 3 + (uint64_t{1} << 32)));
  EXPECT_NE(draw(7, 3), draw(7 + (uint64_t{1} << 32), 3));
}

TEST(RandomTest, BelowIsInRangeAndEven) {
  Random random(1);
  std::vector<int> counts(7);
  constexpr int kDraws = 70'000;
  for (int i = 0; i < kDraws; ++i) ++counts.at(random.Below(7));
  // Chi-squared with 6 degrees of freedom: above 30 once in 25,000.
  double chi_squared = 0;
  for (const int count : counts) chi_squared += (count - 10'000.0) * (count - 10'000.0) / 10'000.0;
  EXPECT_LT(chi_squared, 30);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(random.Below(1), 0u);
  EXPECT_LT(random.Below((uint64_t{1} << 63) + 1), (uint64_t{1} << 63) + 1);
  EXPECT_THROW(random.Below(0), Bug);
}

TEST(RandomTest, UniformMoments) {
  Random random(2);
  constexpr int kDraws = 100'000;
  double sum = 0, squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = random.Uniform();
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 0.005);
}

TEST(RandomTest, NormalMoments) {
  Random random(3);
  constexpr int kDraws = 100'000;
  double sum = 0, squares = 0, fourths = 0;
  int beyond_two = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double z = random.Normal();
    ASSERT_TRUE(std::isfinite(z));
    sum += z;
    squares += z * z;
    fourths += z * z * z * z;
    beyond_two += std::abs(z) > 2;
  }
  EXPECT_NEAR(sum / kDraws, 0, 0.02);
  EXPECT_NEAR(squares / kDraws, 1, 0.02);
  EXPECT_NEAR(fourths / kDraws, 3, 0.15);
  EXPECT_NEAR(static_cast<double>(beyond_two) / kDraws, 0.0455, 0.003);
}

}  // namespace
}  // namespace sluice
