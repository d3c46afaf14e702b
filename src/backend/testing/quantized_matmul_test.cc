// Cases of QuantizedMatMul, GroupedQuantizedMatMul and QuantizedEmbedding, in every format.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "backend/backend.h"
#include "backend/cpu/quantized_products.h"
#include "backend/cpu/targets.h"
#include "backend/testing/harness.h"
#include "backend/testing/quantized_matrices.h"
#include "base/threads.h"

namespace sluice {
namespace {

using enum WeightFormat;

OpCase MatMulCase(WeightFormat format, int64_t rows, int64_t in, int64_t out, const Fill& fill = Normal()) {
  OpCase c(fmt::format("QuantizedMatMul {} {} rows, {} -> {}", NameOf(format), rows, in, out));
  c.In("x", {rows, in}, fill).Out("y", {rows, out});
  c.num_rows = rows;
  c.rows = [w = RandomMatrix(format, 1, out, in)](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.QuantizedMatMul({t["x"].Rows(begin, end), w->view(), t["y"].Rows(begin, end)});
  };
  c.NanStaysInRow({"x"}, "y");
  return c;
}

// `offsets`: of experts + 1 values; `rows` may be more than the last of them.
OpCase GroupedCase(WeightFormat format, int64_t rows, int64_t in, int64_t out,
                   const std::vector<int32_t>& offsets) {
  const auto experts = static_cast<int64_t>(offsets.size()) - 1;
  OpCase c(fmt::format("GroupedQuantizedMatMul {} {} rows, {} experts, {} -> {}", NameOf(format), rows,
                       experts, in, out));
  c.In("x", {rows, in}).Ints("offsets", {experts + 1}, offsets).InOut("y", {rows, out});
  c.num_rows = rows;
  c.rows = [w = RandomMatrix(format, experts, out, in)](Ops& ops, const Tensors& t, int64_t begin,
                                                        int64_t end) {
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

class QuantizedMatMulTest : public testing::TestWithParam<WeightFormat> {};

TEST_P(QuantizedMatMulTest, RowsAndOutputsAroundTheTiles) {
  std::vector<OpCase> cases;
  for (const int64_t rows : {0, 1, 2, 3, 4, 5, 6, 7, 13})
    cases.push_back(MatMulCase(GetParam(), rows, 64, 33));
  for (const int64_t out : {0, 1, 8, 15, 16, 17, 31, 32, 48, 49}) {
    cases.push_back(MatMulCase(GetParam(), 7, 32, out));
  }
  cases.push_back(MatMulCase(GetParam(), 1, 64, 81));
  EXPECT_TRUE(CheckCases(cases));
}

TEST_P(QuantizedMatMulTest, SeveralBlocksAndTasks) {
  EXPECT_TRUE(CheckCases({MatMulCase(GetParam(), 1, 96, 1100), MatMulCase(GetParam(), 2, 1024, 70),
                          MatMulCase(GetParam(), 60, 288, 40), MatMulCase(GetParam(), 100, 32, 2100)}));
}

TEST_P(QuantizedMatMulTest, ExtremeActivations) {
  std::vector<OpCase> cases;
  int64_t out = 33;
  for (const Fill& fill :
       {Constant(1), Constant(-2.5), Constant(0), Normal(1e-29), Normal(1e-33), Normal(1e30)}) {
    cases.push_back(MatMulCase(GetParam(), 7, 64, out++, fill));
  }
  EXPECT_TRUE(CheckCases(cases));
}

TEST_P(QuantizedMatMulTest, EmptyExpertsAndUnservedRows) {
  const WeightFormat f = GetParam();
  EXPECT_TRUE(CheckCases({GroupedCase(f, 9, 64, 20, {0, 3, 3, 8, 9}), GroupedCase(f, 9, 32, 17, {0, 0, 5}),
                          GroupedCase(f, 2, 64, 40, {0, 0, 1, 1, 2, 2}), GroupedCase(f, 4, 32, 5, {0, 0, 0}),
                          GroupedCase(f, 130, 96, 60, {0, 70, 71, 130})}));
}

TEST_P(QuantizedMatMulTest, RowsOfTheTable) {
  OpCase c(fmt::format("QuantizedEmbedding {}", NameOf(GetParam())));
  c.Ints("tokens", {5}, {0, 36, 7, 15, 16}).Out("out", {5, 96});
  c.num_rows = 5;
  c.rows = [w = RandomMatrix(GetParam(), 1, 37, 96)](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.QuantizedEmbedding({t["tokens"].Rows(begin, end), w->view(), t["out"].Rows(begin, end)});
  };
  EXPECT_TRUE(CheckCases({c}));
}

INSTANTIATE_TEST_SUITE_P(, QuantizedMatMulTest, testing::Values(kQ8, kQ4, kBF16),
                         [](const auto& format) { return NameOf(format.param); });

std::vector<float> Product(Ops& ops, const TensorView& x, const QuantizedMatrix& w) {
  const Buffer y(DType::kF32, {x.dim(0), w.out});
  ops.QuantizedMatMul({x, w, y});
  return {y.view().data<float>(), y.view().data<float>() + y.view().num_elements()};
}

// The contract fixes every rounding, so that targets agree in bits, not only under a bound.
TEST(QuantizedMatMul, EveryTargetGivesTheSameBits) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const Buffer x = RandomWeights(9, 160, 3);
  for (const WeightFormat format : {kQ8, kQ4}) {
    const auto w = RandomMatrix(format, 1, 77, 160);
    std::vector<std::vector<float>> results;
    for (const std::string& target : CpuTargets()) {
      UseCpuTarget(target);
      results.push_back(Product(*ops, x, w->view()));
    }
    UseCpuTarget("");
    for (const std::vector<float>& result : results) EXPECT_EQ(result, results.front()) << NameOf(format);
  }
}

TEST(QuantizedMatMul, BF16GivesTheBitsOfFloats) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  for (const int64_t in : {1, 31, 256, 700}) {
    const int64_t out = 101;
    const auto w = RandomMatrix(kBF16, 1, out, in);
    const Buffer wide(DType::kF32, {out, in});
    for (int64_t n = 0; n < out; ++n) {
      for (int64_t k = 0; k < in; ++k) wide.view().row<float>(n)[k] = w->view().Weight(0, n, k);
    }
    for (const std::string& target : CpuTargets()) {
      UseCpuTarget(target);
      for (const int64_t rows : {1, 9, 60}) {
        const Buffer x = RandomWeights(rows, in, 3);
        const Buffer y(DType::kF32, {rows, out});
        ops->MatMul({x, wide, y});
        const std::vector<float> expected(y.view().data<float>(), y.view().data<float>() + rows * out);
        EXPECT_EQ(Product(*ops, x, w->view()), expected) << target << ", " << rows << " rows, in " << in;
      }
    }
    UseCpuTarget("");
  }
}

// Products of two experts, whichever they are: every element once, and each thread's part of the list reads
// its share of both matrices' columns alone.
TEST(QuantizedProducts, AThreadReadsTheSameColumnsOfEveryExpert) {
  constexpr int64_t kOut = 768, kIn = 1024, kThreads = 4, kRows = 2;
  const auto w = RandomMatrix(kQ8, 5, kOut, kIn);
  const Buffer y(DType::kF32, {2 * kRows, kOut});
  const int threads = NumThreads();
  SetNumThreads(kThreads);
  const std::vector<QuantizedProduct> products = {{{}, w->view(), 1, 0, kRows, y},
                                                  {{}, w->view(), 4, kRows, 2 * kRows, y}};
  const std::vector<ProductTask> tasks = TasksOf(products);
  SetNumThreads(threads);
  std::vector<int> written(static_cast<size_t>(2 * kRows * kOut));
  const auto count = static_cast<int64_t>(tasks.size());
  for (int64_t thread = 0; thread < kThreads; ++thread) {
    for (int64_t i = count * thread / kThreads; i < count * (thread + 1) / kThreads; ++i) {
      const Rectangle& part = tasks[static_cast<size_t>(i)].part;
      EXPECT_GE(part.column_begin, kOut * thread / kThreads);
      EXPECT_LE(part.column_end, kOut * (thread + 1) / kThreads);
      for (int64_t r = part.row_begin; r < part.row_end; ++r) {
        for (int64_t n = part.column_begin; n < part.column_end; ++n)
          ++written[static_cast<size_t>(r * kOut + n)];
      }
    }
  }
  EXPECT_THAT(written, testing::Each(1));
}

}  // namespace
}  // namespace sluice
