// A magnitude must bound what float32 rounding does to a formula, and must not be so loose that a wrong
// result passes: random formulas are evaluated in float32 and in Tracked, over the same inputs.
#include "backend/reference/tracked.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "backend/reference/loops.h"
#include "base/random.h"

namespace sluice {
namespace {

// float in the place of Tracked: the same names, so that a formula is written once.
float Exp(float x) {
  return std::exp(x);
}
float Log(float x) {
  return std::log(x);
}
float Sqrt(float x) {
  return std::sqrt(x);
}
float Sigmoid(float x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}
float Softplus(float x) {
  return std::fmax(x, 0.0f) + std::log1p(std::exp(-std::abs(x)));
}
float Relu(float x) {
  return std::fmax(x, 0.0f);
}

template <class T>
std::vector<T> Inputs(const std::vector<float>& values) {
  std::vector<T> result;
  for (const float value : values) {
    if constexpr (std::is_same_v<T, float>) {
      result.push_back(value);
    } else {
      result.push_back(Constant<T>(value));
    }
  }
  return result;
}

// Formulas of n >= 2 inputs.
struct SumFormula {
  template <class T>
  T operator()(const std::vector<T>& x) const {
    T sum{};
    for (const T& element : x) sum = sum + element;
    return sum;
  }
};
struct DotFormula {
  template <class T>
  T operator()(const std::vector<T>& x) const {
    T sum{};
    for (size_t i = 0; i + 1 < x.size(); ++i) sum = sum + x[i] * x[i + 1];
    return sum;
  }
};
struct NormFormula {
  template <class T>
  T operator()(const std::vector<T>& x) const {
    T sum{};
    for (const T& element : x) sum = sum + element * element;
    return x[0] / Sqrt(sum);
  }
};
struct SoftmaxFormula {
  template <class T>
  T operator()(const std::vector<T>& x) const {
    T largest = x[0];
    for (const T& element : x) largest = element > largest ? element : largest;
    T sum{};
    for (const T& element : x) sum = sum + Exp(element - largest);
    return Exp(x[1] - largest) / sum;
  }
};
struct LogSumExpFormula {
  template <class T>
  T operator()(const std::vector<T>& x) const {
    T largest = x[0];
    for (const T& element : x) largest = element > largest ? element : largest;
    T sum{};
    for (const T& element : x) sum = sum + Exp(element - largest);
    return largest + Log(sum) - x[0];
  }
};
struct GateFormula {
  template <class T>
  T operator()(const std::vector<T>& x) const {
    T sum{};
    for (size_t i = 0; i + 1 < x.size(); ++i) {
      sum = sum + Softplus(x[i]) * Relu(x[i] * x[i + 1] - x[0] * x[i]) * Sigmoid(x[i + 1]);
    }
    return sum;
  }
};

template <class Formula>
class TrackedTest : public testing::Test {};
using Formulas =
    testing::Types<SumFormula, DotFormula, NormFormula, SoftmaxFormula, LogSumExpFormula, GateFormula>;
TYPED_TEST_SUITE(TrackedTest, Formulas);

TYPED_TEST(TrackedTest, BoundsFloat32AndIsNotLoose) {
  const TypeParam formula;
  Random random(7);
  double worst = 0;  // Largest error in units of eps · magnitude.
  for (int trial = 0; trial < 4000; ++trial) {
    std::vector<float> values(2 + random.Below(64));
    const double scale = std::exp(2 * random.Normal());
    for (float& value : values) value = static_cast<float>(scale * random.Normal());
    const Tracked expected = formula(Inputs<Tracked>(values));
    const float actual = formula(Inputs<float>(values));
    ASSERT_TRUE(std::isfinite(expected.magnitude));
    EXPECT_GE(expected.magnitude, std::abs(expected.value));
    const double error = std::abs(static_cast<double>(actual) - expected.value);
    if (error > 0x1p-126) worst = std::max(worst, error / (kTrackedEps * expected.magnitude));
  }
  EXPECT_LE(worst, 1);
  EXPECT_GE(worst, 0.01) << "the bound is a hundred times what ever happens";
}

TEST(TrackedMagnitude, OfASumIsTheSumOverAbsoluteValues) {
  // Inputs once, partial sums once: for n terms of one sign at most (n + 3) / 2 times the sum.
  const int n = 32;
  Tracked sum;
  for (int i = 0; i < n; ++i) sum += Constant<Tracked>(1);
  EXPECT_EQ(sum.value, n);
  EXPECT_GE(sum.magnitude, n);
  EXPECT_LE(sum.magnitude, n * (n + 3) / 2.0);
}

TEST(TrackedMagnitude, SurvivesCancellation) {
  const Tracked difference = Constant<Tracked>(1e6) - Constant<Tracked>(1e6);
  EXPECT_EQ(difference.value, 0);
  EXPECT_EQ(difference.magnitude, 2e6);
}

TEST(TrackedMagnitude, OfAStepIsItsJumpNearZeroOnly) {
  EXPECT_EQ(Step(Constant<Tracked>(1)).magnitude, 0);
  EXPECT_EQ(Step(Constant<Tracked>(-1)).magnitude, 0);
  const Tracked near = Constant<Tracked>(1e6) - Constant<Tracked>(1e6 - 0.01);
  EXPECT_GE(Step(near).magnitude * kTrackedEps, 1);
  EXPECT_EQ(Relu(Constant<Tracked>(-3)).magnitude, 0);
  EXPECT_EQ(Relu(-near).magnitude, near.magnitude);
}

TEST(TrackedMagnitude, OfSqrtAtZeroIsFinite) {
  EXPECT_EQ(Sqrt(Tracked{}).magnitude, 0);
  EXPECT_TRUE(std::isfinite(Sqrt(Tracked{0, 1e-12}).magnitude));
}

TEST(TrackedMagnitude, LogSumExpDoesNotCountTheShift) {
  const Tracked x[2] = {Constant<Tracked>(1000), Constant<Tracked>(1000)};
  const Tracked lse = reference::LogSumExp(x, 2);
  EXPECT_NEAR(lse.value, 1000 + std::log(2.0), 1e-9);
  EXPECT_LE(lse.magnitude, 2100);
}

}  // namespace
}  // namespace sluice
