// The rounding that every backend shares: codes stay in range, errors stay within half a step, zero and
// values that are not finite give zero codes.
#include "ops/gate_numerics.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <vector>

#include "base/random.h"

namespace sluice {
namespace {

constexpr int64_t kSize = 32;

std::vector<float> RandomRow(Random& random, double scale) {
  std::vector<float> row(kSize);
  for (float& x : row) x = static_cast<float>(scale * random.Normal());
  return row;
}

TEST(GateNumerics, CodesAreWithinHalfAStep) {
  Random random(3);
  for (int trial = 0; trial < 200; ++trial) {
    const std::vector<float> row = RandomRow(random, std::exp(2 * random.Normal()));
    int8_t key[kSize];
    const float key_scale = FloatFromF16(PackOneGateKey(row.data(), kSize, key));
    int16_t query[kSize];
    const float query_scale = RoundGateQuery(row.data(), kSize, query);
    for (int64_t c = 0; c < kSize; ++c) {
      EXPECT_LE(std::abs(key[c]), 127);
      // The scale itself is rounded to 11 bits, which may clamp the largest code.
      EXPECT_NEAR(key_scale * key[c], row[c], 0.501 * key_scale + std::abs(row[c]) * 0x1p-11);
      EXPECT_LE(std::abs(query[c]), 16383);
      EXPECT_NEAR(query_scale * query[c], row[c], 0.501 * query_scale);
    }
  }
}

TEST(GateNumerics, ZeroAndNotFiniteGiveZero) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {0.0f, infinity, 1e-38f}) {
    const std::vector<float> row(kSize, bad);
    int8_t key[kSize];
    int16_t query[kSize];
    EXPECT_EQ(PackOneGateKey(row.data(), kSize, key), 0);
    EXPECT_EQ(RoundGateQuery(row.data(), kSize, query), 0);
    for (int64_t c = 0; c < kSize; ++c) EXPECT_TRUE(key[c] == 0 && query[c] == 0);
  }
  std::vector<float> row(kSize, 2.0f);
  row[5] = std::nanf("");
  int8_t key[kSize];
  EXPECT_NE(PackOneGateKey(row.data(), kSize, key), 0);
  EXPECT_EQ(key[5], 0);
  EXPECT_EQ(key[4], 127);
  EXPECT_EQ(GateHeadWeight(infinity), 0);
  EXPECT_EQ(GateHeadWeight(std::nanf("")), 0);
}

TEST(GateNumerics, HeadWeightIsSoftplus) {
  EXPECT_FLOAT_EQ(GateHeadWeight(0), std::log(2.0f));
  EXPECT_FLOAT_EQ(GateHeadWeight(100), 100);
  EXPECT_FLOAT_EQ(GateHeadWeight(-30), std::exp(-30.0f));
}

TEST(GateNumerics, CodesFillTheirPlacesOnce) {
  std::set<int64_t> places;
  for (int64_t s = 0; s < 48; ++s) {
    for (int64_t c = 0; c < kSize; ++c) places.insert(GateCodeOffset(s, c, kSize));
  }
  EXPECT_EQ(places.size(), 48u * kSize);
  EXPECT_EQ(*places.rbegin(), 48 * kSize - 1);
  // [s / 16, c / 2, s % 16, c % 2]
  EXPECT_EQ(GateCodeOffset(17, 5, kSize), ((1 * kSize / 2 + 2) * 16 + 1) * 2 + 1);
}

}  // namespace
}  // namespace sluice
