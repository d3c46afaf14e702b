// Cases of SwiGlu and its gradient.
#include <gtest/gtest.h>

#include "backend/testing/harness.h"

namespace sluice {
namespace {

OpCase SwiGluCase(int64_t rows, int64_t size, double scale = 1) {
  OpCase c(fmt::format("SwiGlu {} x {}, scale {}", rows, size, scale));
  c.In("gate_up", {rows, 2 * size}, Normal(scale)).Out("out", {rows, size});
  c.In("dout", {rows, size}).Out("dgate_up", {rows, 2 * size});
  c.num_rows = rows;
  c.rows = [](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.SwiGlu({t["gate_up"].Rows(begin, end), t["out"].Rows(begin, end)});
  };
  c.gradient = [](Ops& ops, const Tensors& t) { ops.SwiGluGrad({t["gate_up"], t["dout"], t["dgate_up"]}); };
  c.differentiable = {"gate_up"};
  c.NanStaysInRow({"gate_up"}, "out");
  return c;
}

TEST(SwiGlu, SizesAroundTheVectorWidth) {
  std::vector<OpCase> cases;
  for (const int64_t size : {0, 1, 7, 8, 9, 15, 16, 17, 100}) cases.push_back(SwiGluCase(3, size));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(SwiGlu, RowCounts) {
  EXPECT_TRUE(CheckCases({SwiGluCase(0, 8), SwiGluCase(1, 8), SwiGluCase(70, 12)}));
}

// Gates of ±90 saturate: sigmoid underflows in float32 and e^-x overflows.
TEST(SwiGlu, SaturatedGates) {
  OpCase saturated = SwiGluCase(4, 32, 60);
  EXPECT_TRUE(CheckCases({saturated, SwiGluCase(4, 16, 1e-4)}));
}

}  // namespace
}  // namespace sluice
