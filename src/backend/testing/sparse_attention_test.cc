// Cases of SparseAttention, and of the surrogate with its gradient: what training differentiates is
// SurrogateAttention, so its central differences are the truth for SparseAttentionGrad.
#include <gtest/gtest.h>

#include <limits>

#include "backend/testing/attention_cases.h"
#include "backend/testing/harness.h"

namespace sluice {
namespace {

struct Choice {
  int64_t num_selected = 3;
  int64_t width = 5;
  Padding padding = Padding::kAtTheEnd;

  std::string ToString() const {
    return fmt::format("{} of {} candidates{}", num_selected, width,
                       padding == Padding::kAnywhere ? ", padded anywhere" : "");
  }
};

void AddCandidates(const AttentionShape& s, const Choice& choice, OpCase* c) {
  AddAttentionInputs(s, c);
  c->Ints("candidates", {s.tokens, choice.width},
          RandomCandidates(s, choice.num_selected, choice.width, choice.padding, 11));
}

OpCase SparseCase(const AttentionShape& s, const Choice& choice = {}) {
  OpCase c(fmt::format("SparseAttention, {}, {}", s.ToString(), choice.ToString()));
  AddCandidates(s, choice, &c);
  c.Out("out", {s.tokens, s.query_heads, s.head_size});
  c.Out("gate_target", {s.tokens, choice.width}).Out("gate_mass", {s.tokens});
  c.num_rows = s.tokens;
  c.rows = [s, choice](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.SparseAttention({StoredInputs(ops, t, s, begin, end), t["candidates"].Rows(begin, end),
                         choice.num_selected, t["out"].Rows(begin, end), t["gate_target"].Rows(begin, end),
                         t["gate_mass"].Rows(begin, end)});
  };
  c.NanStaysInRow({"q_rot"}, "out");
  return c;
}

// As at inference: without the distillation outputs.
OpCase InferenceCase(const AttentionShape& s, const Choice& choice) {
  OpCase c = SparseCase(s, choice);
  c.name += ", without target";
  std::erase_if(c.tensors, [](const TensorSpec& spec) { return spec.name.starts_with("gate_"); });
  c.rows = [s, choice](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.SparseAttention({StoredInputs(ops, t, s, begin, end),
                         t["candidates"].Rows(begin, end),
                         choice.num_selected,
                         t["out"].Rows(begin, end),
                         {},
                         {}});
  };
  return c;
}

// Thresholds: −infinity for every third query (nothing was left out), else around the scores.
OpCase SurrogateCase(const AttentionShape& s, const Choice& choice, double temperature, bool gated = true) {
  OpCase c(fmt::format("SurrogateAttention, {}, {}, temperature {}", s.ToString(), choice.ToString(),
                       temperature));
  AddCandidates(s, choice, &c);
  if (gated) {
    c.In("scores", {s.tokens, choice.width}).In("threshold", {s.tokens}, Normal(0.5));
    c.InOut("dscores_acc", {s.tokens, choice.width});
    for (size_t t = 0; t < c.Find("threshold")->values.size(); t += 3)
      c.Find("threshold")->values[t] = -std::numeric_limits<double>::infinity();
    c.differentiable = {"scores"};
  }
  c.Out("out", {s.tokens, s.query_heads, s.head_size});
  AddAttentionGrads(s, &c);
  c.forward = [s, temperature](Ops& ops, const Tensors& t) {
    const SurrogateGate gate{t.Optional("scores"), t.Optional("threshold"), temperature};
    ops.SurrogateAttention({InputsOf(t, s, 0, s.tokens), t["candidates"], gate, t["out"]});
  };
  c.gradient = [s, temperature](Ops& ops, const Tensors& t) {
    const SurrogateGate gate{t.Optional("scores"), t.Optional("threshold"), temperature};
    ops.SparseAttentionGrad({InputsOf(t, s, 0, s.tokens), t["candidates"], gate, t["dout"], GradsOf(t),
                             t.Optional("dscores_acc")});
  };
  return c;
}

TEST(SparseAttention, StoredKeys) {
  std::vector<OpCase> cases;
  for (const DType format : {DType::kF32, DType::kBF16, DType::kI8}) {
    for (const int64_t head_size : {8, 13, 64}) {
      const AttentionShape shape{.tokens = 20,
                                 .query_heads = 24,
                                 .kv_heads = 2,
                                 .head_size = head_size,
                                 .window = 30,
                                 .query_offset = 200};
      cases.push_back(SparseCase(shape.Stored(format), {.num_selected = 20, .width = 30}));
      cases.push_back(InferenceCase(shape.Stored(format), {.num_selected = 20, .width = 20}));
    }
  }
  EXPECT_TRUE(CheckCases(cases));
}

TEST(SparseAttention, BFloat16Keys) {
  std::vector<OpCase> cases;
  for (AttentionShape shape : BFloat16Shapes()) {
    for (const int64_t selected : {0, 1, 13, 75}) {
      shape.bias_columns = 75 - shape.bias_columns;  // With a bias and without.
      cases.push_back(
          InferenceCase(shape, {.num_selected = selected, .width = 75, .padding = Padding::kAnywhere}));
    }
  }
  for (OpCase& c : cases) c.nan_stays_in_row = {};  // Next to an infinity magnitudes say nothing of rounding.
  EXPECT_TRUE(CheckCases(cases));
}

TEST(SparseAttention, HeadSizes) {
  std::vector<OpCase> cases;
  for (const int64_t head_size : {8, 16, 24, 32, 64})
    cases.push_back(SparseCase({.query_heads = 2, .head_size = head_size}));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(SparseAttention, Heads) {
  EXPECT_TRUE(CheckCases({SparseCase({.query_heads = 4, .kv_heads = 2}), SparseCase({.query_heads = 8}),
                          SparseCase({.query_heads = 2, .kv_heads = 2, .head_size = 16}),
                          SparseCase({.query_heads = 1})}));
}

TEST(SparseAttention, Selections) {
  EXPECT_TRUE(CheckCases(
      {SparseCase({}, {.num_selected = 0, .width = 0}), SparseCase({}, {.num_selected = 0, .width = 4}),
       SparseCase({}, {.num_selected = 5, .width = 5}), SparseCase({}, {.num_selected = 40, .width = 60}),
       SparseCase({}, {.padding = Padding::kAnywhere}), SparseCase({}, {.num_selected = 1, .width = 1}),
       InferenceCase({}, {}),
       InferenceCase({.tokens = 40, .query_heads = 2}, {.num_selected = 17, .width = 33})}));
}

TEST(SparseAttention, WindowsAndSinks) {
  EXPECT_TRUE(
      CheckCases({SparseCase({.window = 1, .num_sinks = 0}), SparseCase({.window = 100}),
                  SparseCase({.window = 1, .num_sinks = 20}), SparseCase({.tokens = 50, .window = 17}),
                  SparseCase({.tokens = 0}), SparseCase({.tokens = 1})}));
}

TEST(SparseAttention, SegmentsAndCachedKeys) {
  EXPECT_TRUE(CheckCases(
      {SparseCase({.window = 2, .segment_start = {0, 0, 0, 0, 0, 5, 6, 6, 6, 6, 6, 6}}),
       SparseCase({.tokens = 5, .query_offset = 30, .k_rot_begin = 27}),
       SparseCase({.tokens = 1, .query_offset = 90, .spare_keys = 2}, {.num_selected = 31, .width = 50}),
       SparseCase({.tokens = 4, .window = 2, .query_offset = 6, .segment_start = {3, 3, 8, 8}})}));
}

TEST(SparseAttention, FarBias) {
  EXPECT_TRUE(CheckCases(
      {SparseCase({.bias_columns = 5}),
       SparseCase({.query_heads = 8, .head_size = 16, .bias_columns = 5}, {.padding = Padding::kAnywhere}),
       SparseCase({.query_heads = 4, .kv_heads = 2, .bias_columns = 5}),
       InferenceCase({.tokens = 5, .query_offset = 30, .k_rot_begin = 27, .bias_columns = 5}, {})}));
}

TEST(SparseAttention, SharpSoftmaxes) {
  EXPECT_TRUE(
      CheckCases({SparseCase({.head_size = 16, .scale = 8}), SparseCase({.tokens = 20, .scale = 100})}));
}

TEST(SparseAttention, NaNInKeysAndValues) {
  for (const char* name : {"k", "k_rot", "v"}) {
    for (const int64_t key : {0, 1, 5, 11}) {
      OpCase c = InferenceCase({.query_heads = 2, .kv_heads = 2}, {});
      c.nan_stays_in_row = {};
      c.Find(name)->values[static_cast<size_t>(key * 16 + 3)] = std::numeric_limits<double>::quiet_NaN();
      c.reference_may_be_nan = true;
      EXPECT_TRUE(CheckCases({c})) << name << " " << key;
    }
  }
}

TEST(SurrogateAttention, Gated) {
  EXPECT_TRUE(
      CheckCases({SurrogateCase({}, {}, 1), SurrogateCase({}, {}, 0.2),
                  SurrogateCase({.kv_heads = 2, .head_size = 24}, {}, 1),
                  SurrogateCase({.query_heads = 2, .head_size = 64}, {.num_selected = 2, .width = 7}, 0.5),
                  SurrogateCase({.query_heads = 8, .head_size = 16}, {.padding = Padding::kAnywhere}, 1)}));
}

// Several tasks of queries, whose gradients meet in the same keys.
TEST(SurrogateAttention, LongSequences) {
  OpCase c = SurrogateCase({.tokens = 200, .query_heads = 2, .head_size = 16, .window = 30},
                           {.num_selected = 16, .width = 40}, 0.5);
  c.differentiable = {};
  EXPECT_TRUE(CheckCases({c}));
}

TEST(SurrogateAttention, FarBias) {
  OpCase many = SurrogateCase({.tokens = 200, .query_heads = 2, .window = 30, .bias_columns = 40},
                              {.num_selected = 16, .width = 40}, 0.5);
  many.differentiable = {};
  EXPECT_TRUE(
      CheckCases({SurrogateCase({.bias_columns = 5}, {}, 1), SurrogateCase({.bias_columns = 5}, {}, 1, false),
                  SurrogateCase({.query_heads = 8, .head_size = 16, .bias_columns = 5},
                                {.padding = Padding::kAnywhere}, 1),
                  SurrogateCase({.kv_heads = 2, .bias_columns = 5}, {}, 0.5), many}));
}

TEST(SurrogateAttention, WithoutScores) {
  EXPECT_TRUE(CheckCases({SurrogateCase({}, {}, 1, false), SurrogateCase({.head_size = 32}, {}, 1, false)}));
}

TEST(SurrogateAttention, Shapes) {
  EXPECT_TRUE(CheckCases(
      {SurrogateCase({.tokens = 0}, {}, 1), SurrogateCase({.tokens = 1}, {}, 1),
       SurrogateCase({.window = 100}, {}, 1), SurrogateCase({.window = 1, .num_sinks = 0}, {}, 1),
       SurrogateCase({}, {.num_selected = 0, .width = 0}, 1),
       SurrogateCase({.tokens = 40, .query_heads = 2, .window = 9}, {.num_selected = 10, .width = 20}, 1),
       SurrogateCase({.window = 2, .segment_start = {0, 0, 0, 0, 0, 5, 6, 6, 6, 6, 6, 6}}, {}, 0.7)}));
}

}  // namespace
}  // namespace sluice
