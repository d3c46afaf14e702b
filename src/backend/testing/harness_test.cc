// The harness itself: every check must fail for an op that breaks what it checks. The ops here are Add
// with one fault each, on the float32 backend only.
#include "backend/testing/harness.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string_view>

namespace sluice {
namespace {

using Fault = std::function<void(const Tensors&)>;

// out = x + out, then the fault.
OpCase AddWith(const Fault& fault) {
  OpCase c("Add with a fault");
  c.In("x", {4, 9}).InOut("out", {4, 9});
  c.forward = [fault](Ops& ops, const Tensors& t) {
    ops.Add({t["x"], t["out"]});
    if (std::string_view(ops.name()) == "cpu") fault(t);
  };
  return c;
}

TEST(Harness, AcceptsACorrectOp) {
  EXPECT_EQ(CheckCase(AddWith([](const Tensors&) {})), "");
}

TEST(Harness, RejectsAWrongElement) {
  for (const auto& [row, column] : {std::pair<int64_t, int64_t>{0, 0}, {2, 4}, {3, 8}}) {
    const auto wrong = [row = row, column = column](const Tensors& t) {
      t["out"].row<float>(row)[column] *= 1 + 0x1p-18f;
    };
    EXPECT_NE(CheckAgainstReference(AddWith(wrong)), "");
  }
}

TEST(Harness, RejectsAZeroedRow) {
  EXPECT_NE(CheckAgainstReference(AddWith([](const Tensors& t) { t["out"].Rows(2, 3).Zero(); })), "");
}

TEST(Harness, RejectsNaN) {
  const auto nan = [](const Tensors& t) {
    t["out"].row<float>(1)[3] = std::numeric_limits<float>::quiet_NaN();
  };
  EXPECT_NE(CheckAgainstReference(AddWith(nan)), "");
}

TEST(Harness, RejectsWritesOutsideTheOutput) {
  for (const int64_t element : {int64_t{-1}, int64_t{36}})
    EXPECT_NE(
        CheckAgainstReference(AddWith([element](const Tensors& t) { t["out"].row<float>(0)[element] = 0; })),
        "");
}

TEST(Harness, RejectsWritesToGapsBetweenRows) {
  const auto gap = [](const Tensors& t) {
    if (!t["out"].contiguous()) t["out"].row<float>(0)[9] = 0;
  };
  EXPECT_NE(CheckAgainstReference(AddWith(gap)), "");
}

TEST(Harness, RejectsWritesToInputs) {
  EXPECT_NE(CheckAgainstReference(AddWith([](const Tensors& t) { t["x"].row<float>(0)[0] = 1; })), "");
}

TEST(Harness, RejectsResultsThatVary) {
  int calls = 0;
  const auto vary = [&calls](const Tensors& t) { t["out"].row<float>(3)[8] += static_cast<float>(++calls); };
  EXPECT_NE(CheckRepeatability(AddWith(vary)), "");
}

TEST(Harness, RejectsRowsThatDependOnTheChunk) {
  OpCase c("Add that counts its rows");
  c.In("x", {4, 9}).InOut("out", {4, 9});
  c.num_rows = 4;
  c.rows = [](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.Add({t["x"].Rows(begin, end), t["out"].Rows(begin, end)});
    if (end - begin > 1) t["out"].row<float>(0)[0] *= 1 + 0x1p-23f;
  };
  EXPECT_NE(CheckRowInvariance(c), "");
}

TEST(Harness, RejectsNaNThatSpreads) {
  OpCase c("Add that mixes rows");
  c.In("x", {4, 9}).InOut("out", {4, 9});
  c.forward = [](Ops& ops, const Tensors& t) {
    for (int64_t r = 0; r < 4; ++r) ops.Add({t["x"].Rows(0, 4), t["out"].Rows(0, 4)});
    ops.Add({t["x"].Rows(0, 1), t["out"].Rows(1, 2)});
  };
  c.NanStaysInRow({"x"}, "out");
  EXPECT_NE(CheckNanStaysInRow(c), "");
}

TEST(Harness, RejectsAWrongGradient) {
  OpCase c("Silu with a wrong gradient");
  c.In("x", {5}).Out("out", {5}).In("dout", {5}).Out("dx", {5});
  c.forward = [](Ops& ops, const Tensors& t) { ops.Silu({t["x"], t["out"]}); };
  c.gradient = [](Ops& ops, const Tensors& t) {
    ops.SiluGrad({t["x"], t["dout"], t["dx"]});
    ops.Scale({t["dx"].Rows(4, 5), 1.0001});
  };
  c.differentiable = {"x"};
  EXPECT_NE(CheckGradient(c), "");
}

TEST(Harness, RejectsAnOutputThatNobodyWrites) {
  OpCase c("nothing");
  c.Out("out", {3});
  EXPECT_NE(CheckAgainstReference(c), "");
}

}  // namespace
}  // namespace sluice
