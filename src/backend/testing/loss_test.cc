// Cases of CrossEntropy and its gradient.
#include <gtest/gtest.h>

#include "backend/testing/harness.h"
#include "tensor/host.h"

namespace sluice {
namespace {

OpCase CrossEntropyCase(int64_t vocab, const std::vector<int32_t>& targets, double scale = 1) {
  const auto tokens = static_cast<int64_t>(targets.size());
  OpCase c(fmt::format("CrossEntropy {} x {}, scale {}", tokens, vocab, scale));
  c.In("logits", {tokens, vocab}, Normal(scale)).Ints("targets", {tokens}, targets).Out("loss", {tokens});
  c.In("dloss", {tokens}, Uniform(0.1, 2)).Out("dlogits", {tokens, vocab});
  c.num_rows = tokens;
  c.rows = [](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.CrossEntropy(
        {t["logits"].Rows(begin, end), t["targets"].Rows(begin, end), t["loss"].Rows(begin, end)});
  };
  c.gradient = [](Ops& ops, const Tensors& t) {
    ops.CrossEntropyGrad({t["logits"], t["targets"], t["dloss"], t["dlogits"]});
  };
  c.differentiable = {"logits"};
  c.NanStaysInRow({"logits"}, "loss");
  return c;
}

// The same with a teacher.
OpCase TeacherCase(int64_t vocab, const std::vector<int32_t>& targets, double share, double scale = 1) {
  OpCase c = CrossEntropyCase(vocab, targets, scale);
  c.name += fmt::format(", teacher's share {}", share);
  const auto tokens = static_cast<int64_t>(targets.size());
  c.In("teacher", {tokens, vocab}, Normal(2 * scale));
  c.rows = [share](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    const auto rows = [&](const char* name) { return t[name].Rows(begin, end); };
    ops.CrossEntropy({rows("logits"), rows("targets"), rows("loss"), {rows("teacher"), share}});
  };
  c.gradient = [share](Ops& ops, const Tensors& t) {
    ops.CrossEntropyGrad({t["logits"], t["targets"], t["dloss"], t["dlogits"], {t["teacher"], share}});
  };
  c.nan_stays_in_row = {};
  c.NanStaysInRow({"logits", "teacher"}, "loss");
  return c;
}

// dlogits in the memory of the logits.
OpCase InPlaceCase(int64_t vocab) {
  OpCase c(fmt::format("CrossEntropyGrad in place, {}", vocab));
  c.InOut("logits", {3, vocab}).Ints("targets", {3}, {0, -1, 4}).In("weight", {3});
  c.gradient = [](Ops& ops, const Tensors& t) {
    ops.CrossEntropyGrad({t["logits"], t["targets"], t["weight"], t["logits"]});
  };
  return c;
}

TEST(CrossEntropy, VocabularySizes) {
  std::vector<OpCase> cases;
  for (const int32_t vocab : {1, 2, 7, 8, 9, 15, 16, 17, 333})
    cases.push_back(CrossEntropyCase(vocab, {0, vocab - 1, vocab / 2}));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(CrossEntropy, TokensWithoutATarget) {
  OpCase ignored = CrossEntropyCase(12, {-1, 3, -1, -1, 11});
  ignored.nan_stays_in_row = {};
  OpCase none = CrossEntropyCase(8, {-1, -1});
  none.nan_stays_in_row = {};
  EXPECT_TRUE(CheckCases({ignored, none, CrossEntropyCase(8, {}), InPlaceCase(21)}));
}

TEST(CrossEntropy, LargeVocabulary) {
  OpCase c = CrossEntropyCase(5000, {0, 4999, 77});
  c.differentiable = {};
  EXPECT_TRUE(CheckCases({c}));
}

// Logits of ±200 overflow e^x without the shift by the maximum.
TEST(CrossEntropy, LargeLogits) {
  EXPECT_TRUE(CheckCases({CrossEntropyCase(40, {1, 39, 7}, 100)}));
}

TEST(CrossEntropy, Teacher) {
  std::vector<OpCase> cases;
  for (const int32_t vocab : {1, 2, 7, 8, 9, 16, 17, 333})
    cases.push_back(TeacherCase(vocab, {0, vocab - 1, vocab / 2}, 0.7));
  for (const double share : {0.0, 0.5, 1.0}) cases.push_back(TeacherCase(21, {3, 20}, share));
  cases.push_back(TeacherCase(40, {1, 39, 7}, 0.5, 100));
  OpCase ignored = TeacherCase(12, {-1, 3, -1, -1, 11}, 0.5);
  ignored.nan_stays_in_row = {};
  cases.push_back(ignored);
  EXPECT_TRUE(CheckCases(cases));
}

// A teacher that is sure of the next token changes nothing.
TEST(CrossEntropy, TeacherThatIsSureIsTheToken) {
  OpCase c("a sure teacher");
  c.In("logits", {1, 5}, Values({0.5, -1, 2, 0, 1}))
      .Ints("targets", {1}, {3})
      .Out("loss", {1})
      .Out("plain", {1});
  c.In("teacher", {1, 5}, Values({0, 0, 0, 400, 0}));
  c.forward = [](Ops& ops, const Tensors& t) {
    ops.CrossEntropy({t["logits"], t["targets"], t["loss"], {t["teacher"], 0.8}});
    ops.CrossEntropy({t["logits"], t["targets"], t["plain"]});
    EXPECT_NEAR(LoadElement(t["loss"], 0), LoadElement(t["plain"], 0), 1e-6);
  };
  EXPECT_TRUE(CheckCases({c}));
}

}  // namespace
}  // namespace sluice
