// Cases of MatMul, GroupedMatMul and their gradients.
#include <gtest/gtest.h>

#include <algorithm>

#include "backend/testing/harness.h"

namespace sluice {
namespace {

OpCase MatMulCase(int64_t rows, int64_t in, int64_t out) {
  OpCase c(fmt::format("MatMul {} rows, {} -> {}", rows, in, out));
  c.In("x", {rows, in}).In("w", {out, in}).Out("y", {rows, out});
  c.In("dy", {rows, out}).Out("dx", {rows, in}).InOut("dw_acc", {out, in});
  c.num_rows = rows;
  c.rows = [](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.MatMul({t["x"].Rows(begin, end), t["w"], t["y"].Rows(begin, end)});
  };
  c.gradient = [](Ops& ops, const Tensors& t) {
    ops.MatMulGrad({t["x"], t["w"], t["dy"], t["dx"], t["dw_acc"]});
  };
  c.differentiable = {"x", "w"};
  c.NanStaysInRow({"x"}, "y");
  return c;
}

// `offsets`: of experts + 1 values; `rows` may be more than the last of them.
OpCase GroupedCase(int64_t rows, int64_t in, int64_t out, const std::vector<int32_t>& offsets) {
  const auto experts = static_cast<int64_t>(offsets.size()) - 1;
  OpCase c(fmt::format("GroupedMatMul {} rows, {} experts, {} -> {}", rows, experts, in, out));
  c.In("x", {rows, in}).In("w", {experts, out, in}).Contiguous().Ints("offsets", {experts + 1}, offsets);
  c.InOut("y", {rows, out});
  c.In("dy", {rows, out}).InOut("dx", {rows, in}).InOut("dw_acc", {experts, out, in}).Contiguous();
  c.num_rows = rows;
  c.rows = [](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    // The same rows' experts, counted from `begin`.
    const TensorView& all = t["offsets"];
    std::vector<int32_t> part(static_cast<size_t>(all.dim(0)));
    for (int64_t e = 0; e < all.dim(0); ++e) {
      const int64_t offset = all.data<int32_t>()[e];
      part[static_cast<size_t>(e)] = static_cast<int32_t>(std::clamp(offset, begin, end) - begin);
    }
    ops.GroupedMatMul({t["x"].Rows(begin, end), t["w"], TensorView::Of(part.data(), {all.dim(0)}),
                       t["y"].Rows(begin, end)});
  };
  c.gradient = [](Ops& ops, const Tensors& t) {
    ops.GroupedMatMulGrad({t["x"], t["w"], t["offsets"], t["dy"], t["dx"], t["dw_acc"]});
  };
  if (offsets.back() == rows) c.NanStaysInRow({"x"}, "y");
  return c;
}

TEST(MatMul, InputSizesAroundTheVectorWidth) {
  std::vector<OpCase> cases;
  for (const int64_t in : {1, 7, 8, 9, 15, 16, 17, 24, 64, 129}) cases.push_back(MatMulCase(3, in, 5));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(MatMul, RowsAndOutputsAroundTheTile) {
  std::vector<OpCase> cases;
  for (const int64_t rows : {1, 2, 4, 5, 6, 7, 13}) cases.push_back(MatMulCase(rows, 33, 9));
  for (const int64_t out : {1, 2, 3, 4, 7, 8, 15, 16, 17, 33}) cases.push_back(MatMulCase(7, 20, out));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(MatMul, LargerThanOneBlock) {
  EXPECT_TRUE(CheckCases({MatMulCase(70, 300, 41), MatMulCase(1, 600, 130), MatMulCase(130, 40, 70)}));
}

// Wider than one block of every dimension of the kernels and of the products of the gradients.
TEST(MatMul, LargeGradients) {
  OpCase c = MatMulCase(300, 70, 150);
  c.differentiable = {};
  c.nan_stays_in_row = {};
  EXPECT_TRUE(CheckCases({c}));
}

TEST(MatMul, EmptySizes) {
  EXPECT_TRUE(CheckCases({MatMulCase(0, 8, 8), MatMulCase(3, 8, 0), MatMulCase(3, 0, 8)}));
}

TEST(MatMul, GradientsThatAreNotWanted) {
  OpCase no_dx = MatMulCase(4, 9, 6);
  no_dx.gradient = [](Ops& ops, const Tensors& t) {
    ops.MatMulGrad({t["x"], t["w"], t["dy"], {}, t["dw_acc"]});
  };
  std::erase_if(no_dx.tensors, [](const TensorSpec& spec) { return spec.name == "dx"; });
  no_dx.differentiable = {"w"};
  OpCase no_dw = MatMulCase(4, 9, 7);
  no_dw.gradient = [](Ops& ops, const Tensors& t) { ops.MatMulGrad({t["x"], t["w"], t["dy"], t["dx"], {}}); };
  no_dw.differentiable = {"x"};
  EXPECT_TRUE(CheckCases({no_dx, no_dw}));
}

TEST(GroupedMatMul, EmptyExpertsAndRowsPastTheEnd) {
  OpCase all_rows = GroupedCase(9, 17, 6, {0, 4, 4, 5, 9});
  all_rows.differentiable = {"x", "w"};
  OpCase one_expert = GroupedCase(5, 8, 16, {0, 5});
  one_expert.differentiable = {"x", "w"};
  EXPECT_TRUE(CheckCases(
      {all_rows, one_expert, GroupedCase(9, 16, 8, {0, 0, 0, 0}), GroupedCase(0, 16, 8, {0, 0, 0})}));
}

TEST(GroupedMatMul, RowsPastTheEndStayUntouched) {
  EXPECT_TRUE(CheckCases({GroupedCase(12, 16, 7, {0, 0, 3, 10, 10})}));
}

TEST(GroupedMatMul, ManyRowsPerExpert) {
  EXPECT_TRUE(CheckCases({GroupedCase(80, 40, 24, {0, 1, 33, 33, 80})}));
}

}  // namespace
}  // namespace sluice
