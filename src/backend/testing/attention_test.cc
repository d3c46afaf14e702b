// Cases of FullAttention and its gradient.
#include <gtest/gtest.h>

#include <limits>

#include "backend/testing/attention_cases.h"
#include "backend/testing/harness.h"

namespace sluice {
namespace {

OpCase ForwardCase(const AttentionShape& s) {
  OpCase c("FullAttention, " + s.ToString());
  AddAttentionInputs(s, &c);
  c.Out("out", {s.tokens, s.query_heads, s.head_size}).Out("lse", {s.tokens, s.query_heads});
  c.num_rows = s.tokens;
  c.rows = [s](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.FullAttention(
        {StoredInputs(ops, t, s, begin, end), t["out"].Rows(begin, end), t["lse"].Rows(begin, end)});
  };
  // Every query reads its own rotated key; the unrotated query is read only where there are far keys.
  c.NanStaysInRow({"q_rot"}, "out");
  return c;
}

OpCase GradCase(const AttentionShape& s) {
  OpCase c = ForwardCase(s);
  c.name += ", gradient";
  AddAttentionGrads(s, &c);
  c.gradient = [s](Ops& ops, const Tensors& t) {
    ops.FullAttentionGrad({InputsOf(t, s, 0, s.tokens), t["out"], t["lse"], t["dout"], GradsOf(t)});
  };
  return c;
}

TEST(FullAttention, HeadSizes) {
  std::vector<OpCase> cases;
  for (const int64_t head_size : {8, 16, 24, 32, 64})
    cases.push_back(GradCase({.tokens = 9, .query_heads = 2, .head_size = head_size}));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(FullAttention, Heads) {
  EXPECT_TRUE(CheckCases({GradCase({.query_heads = 4, .kv_heads = 2}), GradCase({.query_heads = 8}),
                          GradCase({.query_heads = 2, .kv_heads = 2, .head_size = 16}),
                          GradCase({.query_heads = 1, .head_size = 24})}));
}

TEST(FullAttention, WindowsAndSinks) {
  EXPECT_TRUE(CheckCases({GradCase({.window = 1, .num_sinks = 0}), GradCase({.window = 100}),
                          GradCase({.window = 12}), GradCase({.window = 1, .num_sinks = 20}),
                          GradCase({.window = 5, .num_sinks = 0})}));
}

TEST(FullAttention, TokenCounts) {
  EXPECT_TRUE(CheckCases({GradCase({.tokens = 0}), GradCase({.tokens = 1}), GradCase({.tokens = 2}),
                          ForwardCase({.tokens = 70, .query_heads = 2, .window = 33}),
                          GradCase({.tokens = 45, .query_heads = 2, .kv_heads = 2, .window = 20})}));
}

TEST(FullAttention, StoredKeys) {
  std::vector<OpCase> cases;
  for (const DType format : {DType::kF32, DType::kBF16, DType::kI8}) {
    for (const int64_t head_size : {8, 13, 64}) {
      const AttentionShape shape{.tokens = 20,
                                 .query_heads = 6,
                                 .kv_heads = 2,
                                 .head_size = head_size,
                                 .window = 30,
                                 .query_offset = 200};
      cases.push_back(ForwardCase(shape.Stored(format)));
    }
    // Infinite keys are no keys in int8, which the reference cannot bound once biases are infinite too.
    if (format == DType::kI8) continue;
    cases.push_back(ForwardCase(
        AttentionShape{.tokens = 9, .query_heads = 12, .query_offset = 120}.Stored(format).WithFullBias()));
  }
  EXPECT_TRUE(CheckCases(cases));
}

TEST(FullAttention, BFloat16Keys) {
  std::vector<OpCase> cases;
  for (const AttentionShape& shape : BFloat16Shapes()) {
    cases.push_back(ForwardCase(shape));
    cases.push_back(ForwardCase(shape.WithFullBias()));
  }
  for (OpCase& c : cases) c.nan_stays_in_row = {};  // Next to an infinity magnitudes say nothing of rounding.
  EXPECT_TRUE(CheckCases(cases));
}

TEST(FullAttention, Segments) {
  EXPECT_TRUE(CheckCases(
      {GradCase({.window = 3, .segment_start = {0, 0, 0, 0, 0, 5, 6, 6, 6, 6, 6, 6}}),
       GradCase({.tokens = 5, .window = 9, .segment_start = {0, 1, 2, 3, 4}}),
       ForwardCase({.tokens = 4, .window = 2, .query_offset = 6, .segment_start = {3, 3, 8, 8}})}));
}

TEST(FullAttention, QueriesAfterCachedKeys) {
  EXPECT_TRUE(
      CheckCases({ForwardCase({.tokens = 5, .query_offset = 20}),
                  ForwardCase({.tokens = 5, .query_offset = 20, .k_rot_begin = 17}),
                  ForwardCase({.tokens = 1, .query_offset = 63, .spare_keys = 3, .k_rot_begin = 60})}));
}

TEST(FullAttention, SharpSoftmaxes) {
  EXPECT_TRUE(
      CheckCases({GradCase({.head_size = 16, .scale = 8}), ForwardCase({.tokens = 20, .scale = 100})}));
}

TEST(FullAttention, FarBias) {
  const std::vector<AttentionShape> shapes = {
      {},
      {.query_heads = 8, .head_size = 16},
      {.query_heads = 4, .kv_heads = 2},
      {.window = 3, .segment_start = {0, 0, 0, 0, 0, 5, 6, 6, 6, 6, 6, 6}},
      {.tokens = 1},
      {.window = 100},
      {.num_sinks = 0}};
  std::vector<OpCase> cases;
  for (const AttentionShape& shape : shapes) cases.push_back(GradCase(shape.WithFullBias()));
  for (const AttentionShape& shape : {AttentionShape{.tokens = 5, .query_offset = 20, .k_rot_begin = 17},
                                      AttentionShape{.tokens = 3, .window = 20, .query_offset = 200}}) {
    cases.push_back(ForwardCase(shape.WithFullBias()));
  }
  OpCase many = GradCase(AttentionShape{.tokens = 200, .query_heads = 2, .window = 50}.WithFullBias());
  many.differentiable = {};
  many.nan_stays_in_row = {};
  cases.push_back(many);
  EXPECT_TRUE(CheckCases(cases));
}

// Several blocks of keys and tasks of queries.
TEST(FullAttention, LongSequences) {
  OpCase c = GradCase({.tokens = 200, .query_heads = 2, .head_size = 16, .window = 50});
  c.differentiable = {};
  c.nan_stays_in_row = {};
  OpCase cached = ForwardCase({.tokens = 9, .query_heads = 8, .window = 128, .query_offset = 700});
  cached.nan_stays_in_row = {};
  EXPECT_TRUE(CheckCases({c, cached}));
}

// A NaN in a key or value reaches exactly the queries that see it, as the reference says.
TEST(FullAttention, NaNInKeysAndValues) {
  for (const char* name : {"k", "k_rot", "v"}) {
    for (const int64_t key : {0, 1, 5, 11}) {
      OpCase c = ForwardCase(
          {.query_heads = 2, .kv_heads = 2, .segment_start = {0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9}});
      c.nan_stays_in_row = {};
      c.Find(name)->values[static_cast<size_t>(key * 16 + 3)] = std::numeric_limits<double>::quiet_NaN();
      c.reference_may_be_nan = true;
      EXPECT_TRUE(CheckCases({c})) << name << " " << key;
    }
  }
}

}  // namespace
}  // namespace sluice
