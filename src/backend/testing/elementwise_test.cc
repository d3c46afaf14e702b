// Cases of Add, Scale, Silu and SumSquares.
#include <gtest/gtest.h>

#include "backend/testing/harness.h"

namespace sluice {
namespace {

constexpr int64_t kSizes[] = {0, 1, 7, 8, 9, 15, 16, 17, 1000};

OpCase AddCase(Shape shape) {
  OpCase c("Add " + shape.ToString());
  c.In("x", shape).InOut("out", shape);
  c.forward = [](Ops& ops, const Tensors& t) { ops.Add({t["x"], t["out"]}); };
  return c;
}

OpCase ScaleCase(Shape shape, double factor) {
  OpCase c(fmt::format("Scale {} by {}", shape.ToString(), factor));
  c.InOut("x", shape);
  c.forward = [factor](Ops& ops, const Tensors& t) { ops.Scale({t["x"], factor}); };
  return c;
}

OpCase SiluCase(Shape shape, double scale = 1) {
  OpCase c(fmt::format("Silu {}, scale {}", shape.ToString(), scale));
  c.In("x", shape, Normal(scale)).Out("out", shape).In("dout", shape).Out("dx", shape);
  c.forward = [](Ops& ops, const Tensors& t) { ops.Silu({t["x"], t["out"]}); };
  c.gradient = [](Ops& ops, const Tensors& t) { ops.SiluGrad({t["x"], t["dout"], t["dx"]}); };
  c.differentiable = {"x"};
  return c;
}

// dx in the memory of dout.
OpCase SiluInPlaceCase(int64_t n) {
  OpCase c(fmt::format("SiluGrad in place, {}", n));
  c.In("x", {n}).InOut("dout", {n});
  c.gradient = [](Ops& ops, const Tensors& t) { ops.SiluGrad({t["x"], t["dout"], t["dout"]}); };
  return c;
}

// The sum is in float64, so c is a few float64 units in units of float32's: the order of summation
// may differ, precision may not.
OpCase SumSquaresCase(Shape shape) {
  OpCase c("SumSquares " + shape.ToString());
  c.In("x", shape).ScalarOut("result");
  c.forward = [](Ops& ops, const Tensors& t) { ops.SumSquares({t["x"], t.Scalar("result")}); };
  c.c = 1e-5;
  return c;
}

TEST(Elementwise, Add) {
  std::vector<OpCase> cases = {AddCase({3, 17}), AddCase({2, 3, 5})};
  for (const int64_t n : kSizes) cases.push_back(AddCase({n}));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(Elementwise, Scale) {
  std::vector<OpCase> cases = {ScaleCase({3, 17}, -2), ScaleCase({5, 8}, 0)};
  for (const int64_t n : kSizes) cases.push_back(ScaleCase({n}, 0.3));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(Elementwise, Silu) {
  std::vector<OpCase> cases = {SiluCase({3, 17}), SiluCase({4, 16}, 60), SiluInPlaceCase(19)};
  for (const int64_t n : kSizes) cases.push_back(SiluCase({n}));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(Elementwise, SumSquares) {
  std::vector<OpCase> cases = {SumSquaresCase({5, 17}), SumSquaresCase({70000})};
  for (const int64_t n : kSizes) cases.push_back(SumSquaresCase({n}));
  EXPECT_TRUE(CheckCases(cases));
}

}  // namespace
}  // namespace sluice
