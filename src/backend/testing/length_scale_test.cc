// Cases of LengthScale.
#include <gtest/gtest.h>

#include "backend/backend.h"
#include "backend/testing/harness.h"
#include "tensor/host.h"

namespace sluice {
namespace {

OpCase LengthScaleCase(int64_t size, const std::vector<int32_t>& positions, int64_t length) {
  const auto tokens = static_cast<int64_t>(positions.size());
  OpCase c(fmt::format("LengthScale {} tokens of {}, length {}", tokens, size, length));
  c.InOut("x", {tokens, size}).Ints("positions", {tokens}, positions);
  c.num_rows = tokens;
  c.rows = [length](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.LengthScale({t["x"].Rows(begin, end), t["positions"].Rows(begin, end), length});
  };
  return c;
}

TEST(LengthScale, Sizes) {
  std::vector<OpCase> cases = {LengthScaleCase(8, {}, 16)};
  for (const int64_t size : {1, 7, 8, 64, 100})
    cases.push_back(LengthScaleCase(size, {0, 131071, 5000}, 1024));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(LengthScale, PositionsAroundTheLength) {
  EXPECT_TRUE(CheckCases({LengthScaleCase(16, {0, 1, 1022, 1023, 1024, 1025, 16383}, 1024),
                          LengthScaleCase(5, {0, 1, 2, 3, 1000}, 2)}));
}

TEST(LengthScale, FollowsTheFormula) {
  const auto ops = MakeOps("reference");
  Buffer x(DType::kF64, {3, 1});
  for (int64_t i = 0; i < 3; ++i) StoreElement(x, i, 10);
  std::vector<int32_t> positions = {0, 99, 9999};
  ops->LengthScale({x, TensorView::Of(positions.data(), {3}), 100});
  EXPECT_DOUBLE_EQ(LoadElement(x, 0), 10);
  EXPECT_DOUBLE_EQ(LoadElement(x, 1), 10);
  EXPECT_DOUBLE_EQ(LoadElement(x, 2), 20);
}

}  // namespace
}  // namespace sluice
