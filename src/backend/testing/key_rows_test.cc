// Cases of StoreKeyRows and LoadKeyRows; attention over stored rows is in the tests of the attention ops.
#include "ops/key_rows.h"

#include <gtest/gtest.h>

#include <limits>

#include "backend/testing/harness.h"

namespace sluice {
namespace {

// Rows [first_row, first_row + tokens) of 128 in two pages that lie in reverse order, and back.
OpCase RowsCase(DType format, int64_t tokens, int64_t first_row, int64_t heads, int64_t size,
                const Fill& fill = Normal()) {
  OpCase c(
      fmt::format("StoreKeyRows, {} {} x {} x {} at {}", NameOf(format), tokens, heads, size, first_row));
  c.In("x", {tokens, heads, size}, fill).Ints("pages", {2}, {1, 0});
  const Shape memory = {2 * kPageRows, heads, size};
  if (format == DType::kF32) {
    c.InOut("rows", memory);
  } else {
    c.IntsOut("rows", memory, format);
  }
  if (format == DType::kI8) c.IntsOut("scale", {2 * kPageRows, heads}, DType::kF16);
  c.Out("out", {tokens, heads, size});
  c.num_rows = tokens;
  c.rows = [=](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    KeyRows rows;
    rows.rows = t["rows"];
    rows.scale = t.Optional("scale");
    rows.map.pages = t["pages"].data<int32_t>();
    rows.num_rows = first_row + end;
    ops.StoreKeyRows({t["x"].Rows(begin, end), first_row + begin, rows});
    ops.LoadKeyRows({rows, first_row + begin, t["out"].Rows(begin, end)});
  };
  return c;
}

TEST(KeyRows, FormatsAndSizes) {
  std::vector<OpCase> cases;
  for (const DType format : {DType::kF32, DType::kBF16, DType::kI8}) {
    cases.push_back(RowsCase(format, 128, 0, 1, 64));
    cases.push_back(RowsCase(format, 70, 58, 3, 8));
    cases.push_back(RowsCase(format, 1, 127, 2, 13));
    cases.push_back(RowsCase(format, 0, 5, 1, 16));
  }
  EXPECT_TRUE(CheckCases(cases));
}

TEST(KeyRows, UnusualValues) {
  std::vector<OpCase> cases;
  for (const DType format : {DType::kBF16, DType::kI8}) {
    cases.push_back(RowsCase(format, 64, 0, 1, 8, Constant(0)));
    cases.push_back(RowsCase(format, 64, 0, 1, 8, Normal(1e6)));
    cases.push_back(RowsCase(format, 64, 0, 1, 8, Normal(1e-9)));
  }
  EXPECT_TRUE(CheckCases(cases));
}

}  // namespace
}  // namespace sluice
