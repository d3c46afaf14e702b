// Cases of Rope and its gradient.
#include <gtest/gtest.h>

#include <numeric>

#include "backend/testing/harness.h"

namespace sluice {
namespace {

OpCase RopeCase(int64_t heads, int64_t head_size, const std::vector<int32_t>& positions,
                double theta = 10000) {
  const auto tokens = static_cast<int64_t>(positions.size());
  OpCase c(fmt::format("Rope {} tokens, {} heads of {}, theta {}", tokens, heads, head_size, theta));
  c.In("x", {tokens, heads, head_size}).Ints("positions", {tokens}, positions);
  c.Out("out", {tokens, heads, head_size});
  c.In("dout", {tokens, heads, head_size}).Out("dx", {tokens, heads, head_size});
  c.num_rows = tokens;
  c.rows = [theta](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.Rope({t["x"].Rows(begin, end), t["positions"].Rows(begin, end), theta, t["out"].Rows(begin, end)});
  };
  c.gradient = [theta](Ops& ops, const Tensors& t) {
    ops.RopeGrad({t["dout"], t["positions"], theta, t["dx"]});
  };
  c.differentiable = {"x"};
  c.NanStaysInRow({"x"}, "out");
  return c;
}

std::vector<int32_t> Count(int32_t first, size_t n) {
  std::vector<int32_t> positions(n);
  std::iota(positions.begin(), positions.end(), first);
  return positions;
}

TEST(Rope, HeadSizes) {
  std::vector<OpCase> cases;
  for (const int64_t head_size : {2, 8, 14, 16, 18, 24, 32, 64})
    cases.push_back(RopeCase(2, head_size, Count(0, 5)));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(Rope, FarPositionsAreAsExactAsNearOnes) {
  EXPECT_TRUE(
      CheckCases({RopeCase(1, 32, {131071, 0, 99999, 1, 131070}), RopeCase(8, 16, Count(131000, 9), 5e5)}));
}

TEST(Rope, TokenCounts) {
  EXPECT_TRUE(CheckCases({RopeCase(2, 16, {}), RopeCase(2, 16, {7}), RopeCase(1, 8, Count(3, 100))}));
}

}  // namespace
}  // namespace sluice
