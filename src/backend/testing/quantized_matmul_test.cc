// Cases of QuantizedMatMul, GroupedQuantizedMatMul and QuantizedEmbedding, and the format's own arithmetic.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "backend/backend.h"
#include "backend/cpu/targets.h"
#include "backend/testing/harness.h"
#include "ops/quantized_numerics.h"
#include "tensor/float16.h"

namespace sluice {
namespace {

constexpr int64_t kBlock = QuantizedMatrix::kBlock;

// Row after row, as files hold it.
struct RowMajor {
  RowMajor(int64_t rows, int64_t in)
      : codes(DType::kI8, {rows, in}), scales(DType::kF16, {rows, in / kBlock}) {}
  Buffer codes, scales;
};

Buffer RandomWeights(int64_t rows, int64_t in, uint64_t seed) {
  Buffer weights(DType::kF32, {rows, in});
  Random random(seed);
  for (int64_t i = 0; i < rows * in; ++i)
    weights.view().data<float>()[i] = static_cast<float>(random.Normal());
  return weights;
}

// Random weights, shared by the copies of a case. The largest code of each row is -127 or 127 and stands
// against activations of the same size: where 16 bits would overflow.
std::shared_ptr<const QuantizedMatrixBuffer> RandomMatrix(int64_t experts, int64_t out, int64_t in) {
  const Buffer weights = RandomWeights(experts * out, in, static_cast<uint64_t>(out * 1000 + in));
  for (int64_t r = 0; r < experts * out; r += 2) {
    for (int64_t k = 0; k < in; ++k) weights.view().row<float>(r)[k] = r % 4 == 0 ? 3.0f : -3.0f;
  }
  const RowMajor rows(experts * out, in);
  QuantizeRows(weights, rows.codes, rows.scales, "weights");
  auto matrix = std::make_shared<QuantizedMatrixBuffer>(experts, out, in);
  matrix->Pack(rows.codes, rows.scales);
  return matrix;
}

OpCase MatMulCase(int64_t rows, int64_t in, int64_t out, const Fill& fill = Normal()) {
  OpCase c(fmt::format("QuantizedMatMul {} rows, {} -> {}", rows, in, out));
  c.In("x", {rows, in}, fill).Out("y", {rows, out});
  c.num_rows = rows;
  c.rows = [w = RandomMatrix(1, out, in)](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.QuantizedMatMul({t["x"].Rows(begin, end), w->view(), t["y"].Rows(begin, end)});
  };
  c.NanStaysInRow({"x"}, "y");
  return c;
}

// `offsets`: of experts + 1 values; `rows` may be more than the last of them.
OpCase GroupedCase(int64_t rows, int64_t in, int64_t out, const std::vector<int32_t>& offsets) {
  const auto experts = static_cast<int64_t>(offsets.size()) - 1;
  OpCase c(fmt::format("GroupedQuantizedMatMul {} rows, {} experts, {} -> {}", rows, experts, in, out));
  c.In("x", {rows, in}).Ints("offsets", {experts + 1}, offsets).InOut("y", {rows, out});
  c.num_rows = rows;
  c.rows = [w = RandomMatrix(experts, out, in)](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    // The same rows' experts, counted from `begin`.
    const TensorView& all = t["offsets"];
    std::vector<int32_t> part(static_cast<size_t>(all.dim(0)));
    for (int64_t e = 0; e < all.dim(0); ++e) {
      const int64_t offset = all.data<int32_t>()[e];
      part[static_cast<size_t>(e)] = static_cast<int32_t>(std::clamp(offset, begin, end) - begin);
    }
    ops.GroupedQuantizedMatMul({t["x"].Rows(begin, end), w->view(), TensorView::Of(part.data(), {all.dim(0)}),
                                t["y"].Rows(begin, end)});
  };
  if (offsets.back() == rows) c.NanStaysInRow({"x"}, "y");
  return c;
}

TEST(QuantizedMatMul, RowsAndOutputsAroundTheTiles) {
  std::vector<OpCase> cases;
  for (const int64_t rows : {0, 1, 2, 3, 4, 5, 6, 7, 13}) cases.push_back(MatMulCase(rows, 64, 33));
  for (const int64_t out : {0, 1, 8, 15, 16, 17, 31, 32, 48, 49}) cases.push_back(MatMulCase(7, 32, out));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(QuantizedMatMul, SeveralBlocksAndTasks) {
  EXPECT_TRUE(CheckCases({MatMulCase(1, 96, 1100), MatMulCase(2, 1024, 70), MatMulCase(60, 288, 40),
                          MatMulCase(100, 32, 2100)}));
}

TEST(QuantizedMatMul, ExtremeActivations) {
  EXPECT_TRUE(CheckCases({MatMulCase(7, 64, 33, Constant(1)), MatMulCase(7, 64, 34, Constant(-2.5)),
                          MatMulCase(7, 64, 35, Constant(0)), MatMulCase(7, 64, 36, Normal(1e-29)),
                          MatMulCase(7, 64, 37, Normal(1e-33)), MatMulCase(7, 64, 38, Normal(1e30))}));
}

TEST(GroupedQuantizedMatMul, EmptyExpertsAndUnservedRows) {
  EXPECT_TRUE(CheckCases({GroupedCase(9, 64, 20, {0, 3, 3, 8, 9}), GroupedCase(9, 32, 17, {0, 0, 5}),
                          GroupedCase(2, 64, 40, {0, 0, 1, 1, 2, 2}), GroupedCase(4, 32, 5, {0, 0, 0}),
                          GroupedCase(130, 96, 60, {0, 70, 71, 130})}));
}

TEST(QuantizedEmbedding, RowsOfTheTable) {
  OpCase c("QuantizedEmbedding");
  c.Ints("tokens", {5}, {0, 36, 7, 15, 16}).Out("out", {5, 96});
  c.num_rows = 5;
  c.rows = [w = RandomMatrix(1, 37, 96)](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.QuantizedEmbedding({t["tokens"].Rows(begin, end), w->view(), t["out"].Rows(begin, end)});
  };
  EXPECT_TRUE(CheckCases({c}));
}

// The contract fixes every rounding, so that targets agree in bits, not only under a bound.
TEST(QuantizedMatMul, EveryTargetGivesTheSameBits) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const auto w = RandomMatrix(1, 77, 160);
  const Buffer x = RandomWeights(9, 160, 3);
  std::vector<std::vector<float>> results;
  for (const std::string& target : CpuTargets()) {
    UseCpuTarget(target);
    const Buffer y(DType::kF32, {9, 77});
    ops->QuantizedMatMul({x, w->view(), y});
    results.emplace_back(y.view().data<float>(), y.view().data<float>() + 9 * 77);
  }
  UseCpuTarget("");
  for (const std::vector<float>& result : results) EXPECT_EQ(result, results.front());
}

TEST(QuantizeRows, ErrorsStayWithinHalfAStep) {
  const Buffer weights = RandomWeights(19, 96, 5);
  const RowMajor rows(19, 96);
  QuantizeRows(weights, rows.codes, rows.scales, "weights");
  QuantizedMatrixBuffer matrix(1, 19, 96);
  matrix.Pack(rows.codes, rows.scales);
  double worst = 0;
  for (int64_t r = 0; r < 19; ++r) {
    for (int64_t k = 0; k < 96; ++k) {
      const double scale = matrix.view().Scale(0, r, k / kBlock);
      const double error = std::abs(scale * matrix.view().Code(0, r, k) - weights.view().row<float>(r)[k]);
      worst = std::max(worst, error / scale);
      EXPECT_EQ(matrix.view().Code(0, r, k), rows.codes.view().row<int8_t>(r)[k]);
    }
  }
  // Half a step, and where a scale was rounded down the clamp to 127: 127 · 2^-11 of a step at most.
  EXPECT_LE(worst, 0.5 + 127 * 0x1p-11);
  EXPECT_GT(worst, 0.4);
}

TEST(QuantizeRows, TinyBlocksBecomeZeroAndWrongOnesAreErrors) {
  const Buffer weights(DType::kF32, {2, kBlock});
  const RowMajor rows(2, kBlock);
  weights.view().row<float>(1)[3] = 1e-9f;
  QuantizeRows(weights, rows.codes, rows.scales, "weights");
  EXPECT_EQ(rows.codes.view().row<int8_t>(1)[3], 0);
  for (const float wrong :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e9f}) {
    weights.view().row<float>(1)[3] = wrong;
    try {
      QuantizeRows(weights, rows.codes, rows.scales, "the tensor");
      FAIL() << wrong;
    } catch (const InputError& error) {
      EXPECT_THAT(error.what(),
                  testing::AllOf(testing::HasSubstr("the tensor"), testing::HasSubstr("row 1")));
    }
  }
}

}  // namespace
}  // namespace sluice
