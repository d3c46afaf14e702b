// Cases of RmsNorm and its gradient.
#include <gtest/gtest.h>

#include "backend/testing/harness.h"

namespace sluice {
namespace {

OpCase RmsNormCase(int64_t rows, int64_t size, const Fill& fill = Normal(), double eps = 1e-6) {
  OpCase c(fmt::format("RmsNorm {} x {}", rows, size));
  c.In("x", {rows, size}, fill).In("weight", {size}, Normal(0.5, 1)).Out("out", {rows, size});
  c.In("dout", {rows, size}).Out("dx", {rows, size}).InOut("dweight_acc", {size});
  c.num_rows = rows;
  c.rows = [eps](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.RmsNorm({t["x"].Rows(begin, end), t["weight"], eps, t["out"].Rows(begin, end)});
  };
  c.gradient = [eps](Ops& ops, const Tensors& t) {
    ops.RmsNormGrad({t["x"], t["weight"], eps, t["dout"], t["dx"], t["dweight_acc"]});
  };
  c.differentiable = {"x", "weight"};
  c.NanStaysInRow({"x"}, "out");
  return c;
}

TEST(RmsNorm, SizesAroundTheVectorWidth) {
  std::vector<OpCase> cases;
  for (const int64_t size : {1, 2, 7, 8, 9, 15, 16, 17, 24, 64, 257}) cases.push_back(RmsNormCase(3, size));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(RmsNorm, RowCounts) {
  EXPECT_TRUE(CheckCases({RmsNormCase(0, 16), RmsNormCase(1, 16), RmsNormCase(40, 24), RmsNormCase(300, 8)}));
}

TEST(RmsNorm, LargeAndSmallValues) {
  OpCase tiny = RmsNormCase(3, 20, Normal(1e-5));
  tiny.differentiable = {"weight"};  // Steps of central differences are not small against 1e-5.
  EXPECT_TRUE(CheckCases({tiny, RmsNormCase(3, 21, Normal(1e4)), RmsNormCase(2, 22, Normal(), 0.5)}));
}

// The weight's gradient is a sum over several tasks' rows.
TEST(RmsNorm, ManyRows) {
  OpCase c = RmsNormCase(1500, 24);
  c.differentiable = {};
  c.nan_stays_in_row = {};
  EXPECT_TRUE(CheckCases({c}));
}

TEST(RmsNorm, ZeroRows) {
  OpCase zeros = RmsNormCase(2, 16, Constant(0));
  zeros.differentiable = {};
  EXPECT_TRUE(CheckCases({zeros}));
}

}  // namespace
}  // namespace sluice
