// Cases of GateKl and DenseGateKl, which give a loss and its own gradient; the target is a constant.
#include <gtest/gtest.h>

#include <algorithm>

#include "backend/testing/attention_cases.h"
#include "backend/testing/harness.h"

namespace sluice {
namespace {

constexpr double kFloor = 0.01;
constexpr double kScale = 0.37;

double ScaledSum(const TensorView& loss) {
  double sum = 0;
  for (int64_t t = 0; t < loss.dim(0); ++t) sum += loss.data<double>()[t];
  return kScale * sum;
}

// Makes rows of `target` sum to 1 over the listed keys. Every fourth row is all zero, and every
// third listed key has no mass.
void NormaliseTarget(int64_t tokens, int64_t width, OpCase* c) {
  std::vector<double>& target = c->Find("target")->values;
  const std::vector<double>& candidates = c->Find("candidates")->values;
  for (int64_t t = 0; t < tokens; ++t) {
    const auto begin = static_cast<size_t>(t * width);
    double sum = 0;
    for (size_t i = begin; i < begin + static_cast<size_t>(width); ++i) {
      if (candidates[i] < 0 || t % 4 == 3 || i % 3 == 2) target[i] = 0;
      sum += target[i];
    }
    for (size_t i = begin; i < begin + static_cast<size_t>(width); ++i)
      if (sum > 0) target[i] = static_cast<double>(static_cast<float>(target[i] / sum));
  }
}

OpCase ListedCase(int64_t tokens, int64_t width, Padding padding = Padding::kAtTheEnd, double scale = 1) {
  AttentionShape s{.tokens = tokens};
  OpCase c(fmt::format("GateKl {} x {}, scale {}", tokens, width, scale));
  const Shape lists = {tokens, width};
  c.In("scores", lists, Normal(scale));
  c.Ints("candidates", lists, RandomCandidates(s, width, width, padding, 3));
  c.In("target", lists, Uniform(0.01, 1)).In("mass", {tokens}, Uniform(0, 1));
  c.Out("loss", {tokens}).Out("dscores", lists);
  NormaliseTarget(tokens, width, &c);
  c.num_rows = tokens;
  c.rows = [](Ops& ops, const Tensors& t, int64_t b, int64_t e) {
    ops.GateKl({t["scores"].Rows(b, e), t["candidates"].Rows(b, e), t["target"].Rows(b, e),
                t["mass"].Rows(b, e), kFloor, kScale, t["loss"].Rows(b, e), t["dscores"].Rows(b, e)});
  };
  c.gradient = [](Ops&, const Tensors&) {};
  c.differentiable = {"scores"};
  c.loss = [](const Tensors& t) { return ScaledSum(t["loss"]); };
  return c;
}

OpCase DenseCase(const AttentionShape& s, int64_t gate_heads = 4, int64_t size = 8) {
  OpCase c(fmt::format("DenseGateKl, {}, {} gate heads of {}", s.ToString(), gate_heads, size));
  AddAttentionInputs(s, &c);
  const Shape queries = {s.tokens, gate_heads, size};
  const Shape weights = {s.tokens, gate_heads};
  const Shape keys = {s.keys(), size};
  c.In("gq", queries).In("gw", weights).In("gk", keys);
  c.Out("out", {s.tokens, s.query_heads, s.head_size}).Out("lse", {s.tokens, s.query_heads});
  c.Out("loss", {s.tokens}).Out("dgq", queries).Out("dgw", weights).Out("dgk", keys);
  c.forward = [s](Ops& ops, const Tensors& t) {
    const AttentionInputs in = InputsOf(t, s, 0, s.tokens);
    ops.FullAttention({in, t["out"], t["lse"]});
    ops.DenseGateKl(
        {in, t["lse"], t["gq"], t["gw"], t["gk"], kFloor, kScale, t["loss"], t["dgq"], t["dgw"], t["dgk"]});
  };
  c.differentiable = {"gq", "gw", "gk"};
  c.loss = [](const Tensors& t) { return ScaledSum(t["loss"]); };
  return c;
}

TEST(GateKl, Widths) {
  std::vector<OpCase> cases;
  for (const int64_t width : {0, 1, 7, 8, 9, 15, 16, 17, 40}) cases.push_back(ListedCase(14, width));
  for (const int64_t tokens : {0, 1, 50}) cases.push_back(ListedCase(tokens, 6));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(GateKl, PaddingAndSharpScores) {
  EXPECT_TRUE(
      CheckCases({ListedCase(20, 11, Padding::kAnywhere), ListedCase(20, 10, Padding::kAtTheEnd, 30)}));
}

TEST(DenseGateKl, Shapes) {
  EXPECT_TRUE(CheckCases({DenseCase({}), DenseCase({.tokens = 0}), DenseCase({.tokens = 1}),
                          DenseCase({.tokens = 7}), DenseCase({.tokens = 70, .query_heads = 2}),
                          DenseCase({.query_heads = 4, .kv_heads = 2}, 3, 17),
                          DenseCase({.head_size = 24}, 4, 32), DenseCase({.query_heads = 1}, 1, 2)}));
}

TEST(DenseGateKl, LongSequences) {
  OpCase c = DenseCase({.tokens = 200, .query_heads = 2, .window = 20});
  c.differentiable = {};
  EXPECT_TRUE(CheckCases({c}));
}

TEST(DenseGateKl, WindowsSinksAndSegments) {
  EXPECT_TRUE(CheckCases({DenseCase({.window = 1, .num_sinks = 0}), DenseCase({.window = 100}),
                          DenseCase({.num_sinks = 20}),
                          DenseCase({.window = 2, .segment_start = {0, 0, 0, 0, 0, 5, 6, 6, 6, 6, 6, 6}}),
                          DenseCase({.scale = 6})}));
}

TEST(DenseGateKl, FarBias) {
  const AttentionShape segments{.window = 2, .segment_start = {0, 0, 0, 0, 0, 5, 6, 6, 6, 6, 6, 6}};
  OpCase many = DenseCase(AttentionShape{.tokens = 200, .query_heads = 2, .window = 20}.WithFullBias());
  many.differentiable = {};
  EXPECT_TRUE(CheckCases({DenseCase(AttentionShape{}.WithFullBias()), DenseCase(segments.WithFullBias()),
                          DenseCase(AttentionShape{.query_heads = 4, .kv_heads = 2}.WithFullBias()),
                          DenseCase(AttentionShape{.tokens = 7}.WithFullBias()), many}));
}

}  // namespace
}  // namespace sluice
