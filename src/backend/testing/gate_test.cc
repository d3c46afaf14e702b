// Cases of the gate: CausalConv, PackGateKeys, SelectKeys, GateScores and their gradients.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "backend/backend.h"
#include "backend/testing/attention_cases.h"
#include "backend/testing/harness.h"
#include "backend/testing/op_run.h"

namespace sluice {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// CausalConv -----------------------------------------------------------------------------------

OpCase ConvGradCase(int64_t tokens, int64_t channels, int64_t width,
                    const std::vector<int32_t>& segments = {}) {
  OpCase c(fmt::format("CausalConv {} x {}, width {}, {} segment starts", tokens, channels, width,
                       segments.size()));
  c.In("x", {tokens, channels}).In("weight", {channels, width}).Out("out", {tokens, channels});
  if (!segments.empty()) c.Ints("segment_start", {tokens}, segments);
  c.In("dout", {tokens, channels}).Out("dx", {tokens, channels}).InOut("dweight_acc", {channels, width});
  c.forward = [](Ops& ops, const Tensors& t) {
    ops.CausalConv({t["x"], t["weight"], {}, t.Optional("segment_start"), 0, t["out"]});
  };
  c.gradient = [](Ops& ops, const Tensors& t) {
    ops.CausalConvGrad(
        {t["x"], t["weight"], t.Optional("segment_start"), t["dout"], t["dx"], t["dweight_acc"]});
  };
  c.differentiable = {"x", "weight"};
  return c;
}

// Rows [begin, end) alone, the rows before them as history: x holds width − 1 rows more than tokens.
OpCase ConvHistoryCase(int64_t tokens, int64_t channels, int64_t width, int64_t first_position,
                       const std::vector<int32_t>& segments = {}) {
  OpCase c(fmt::format("CausalConv with history, {} x {} at {}, width {}", tokens, channels, first_position,
                       width));
  c.In("x", {tokens + width - 1, channels}).In("weight", {channels, width}).Out("out", {tokens, channels});
  if (!segments.empty()) c.Ints("segment_start", {tokens}, segments);
  c.num_rows = tokens;
  c.rows = [=](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    const TensorView segment_start = t.Optional("segment_start");
    ops.CausalConv({t["x"].Rows(begin + width - 1, end + width - 1), t["weight"],
                    t["x"].Rows(begin, begin + width - 1),
                    segment_start.present() ? segment_start.Rows(begin, end) : TensorView(),
                    first_position + begin, t["out"].Rows(begin, end)});
  };
  return c;
}

TEST(CausalConv, Sizes) {
  std::vector<OpCase> cases;
  for (const int64_t channels : {1, 7, 8, 9, 15, 16, 17, 32}) cases.push_back(ConvGradCase(6, channels, 4));
  for (const int64_t width : {1, 2, 3, 5}) cases.push_back(ConvGradCase(6, 9, width));
  for (const int64_t tokens : {0, 1, 2, 3, 4, 70}) cases.push_back(ConvGradCase(tokens, 9, 4));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(CausalConv, Segments) {
  EXPECT_TRUE(CheckCases({ConvGradCase(9, 8, 4, {0, 0, 2, 2, 2, 2, 2, 7, 8}),
                          ConvGradCase(5, 17, 4, {0, 1, 2, 3, 4}), ConvGradCase(5, 17, 4, {0, 0, 0, 0, 0})}));
}

TEST(CausalConv, History) {
  EXPECT_TRUE(CheckCases({ConvHistoryCase(9, 8, 4, 100), ConvHistoryCase(9, 17, 4, 3),
                          ConvHistoryCase(1, 32, 4, 50), ConvHistoryCase(20, 32, 2, 9),
                          // Documents that begin inside and at the end of the history.
                          ConvHistoryCase(5, 8, 4, 20, {18, 18, 18, 23, 24}),
                          ConvHistoryCase(3, 8, 4, 20, {20, 20, 22})}));
}

// A NaN before a segment does not enter it.
TEST(CausalConv, NaNStaysInItsSegment) {
  OpCase c = ConvGradCase(8, 9, 4, {0, 0, 0, 0, 4, 4, 4, 4});
  c.gradient = nullptr;
  c.differentiable = {};
  c.Find("x")->values[3 * 9 + 2] = kNaN;
  c.reference_may_be_nan = true;
  EXPECT_TRUE(CheckCases({c}));
}

// PackGateKeys ---------------------------------------------------------------------------------

void AddPackedKeys(int64_t capacity, int64_t size, OpCase* c) {
  c->IntsOut("packed", {capacity / 16, size / 2, 16, 2}, DType::kI8).Contiguous();
  c->IntsOut("scale", {capacity}, DType::kF16);
}

OpCase PackCase(int64_t tokens, int64_t size, int64_t first_key, const Fill& fill = Normal()) {
  OpCase c(fmt::format("PackGateKeys {} x {} at {}", tokens, size, first_key));
  c.In("gk", {tokens, size}, fill);
  AddPackedKeys((first_key + tokens + 16) / 16 * 16, size, &c);
  c.num_rows = tokens;
  c.rows = [=](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.PackGateKeys({t["gk"].Rows(begin, end), first_key + begin, {t["packed"], t["scale"], 0}});
  };
  return c;
}

TEST(PackGateKeys, Sizes) {
  EXPECT_TRUE(CheckCases({PackCase(0, 32, 0), PackCase(1, 32, 0), PackCase(16, 32, 0), PackCase(17, 32, 15),
                          PackCase(5, 2, 3), PackCase(40, 8, 33), PackCase(9, 14, 1), PackCase(3, 64, 100)}));
}

TEST(PackGateKeys, UnusualValues) {
  OpCase odd = PackCase(6, 8, 2);
  std::vector<double>& gk = odd.Find("gk")->values;
  gk[3] = kNaN;                            // Key 0.
  gk[8 + 5] = kInfinity;                   // Key 1.
  std::fill_n(gk.begin() + 16, 8, 0);      // Key 2: scale 0.
  std::fill_n(gk.begin() + 24, 8, 1e7);    // Key 3: the scale overflows float16.
  std::fill_n(gk.begin() + 32, 8, 1e-9f);  // Key 4: the scale underflows.
  for (size_t i = 0; i < 8; ++i) gk[40 + i] = i == 0 ? 127 : static_cast<double>(i) - 3.5;  // Halves.
  EXPECT_TRUE(CheckCases({odd, PackCase(20, 32, 0, Normal(1e-4)), PackCase(20, 32, 0, Normal(1e3))}));
}

// BuildGateTree --------------------------------------------------------------------------------

void AddTree(const GateTreeShape& shape, int64_t size, OpCase* c) {
  const int64_t slots = shape.NumSlots();
  const auto landmarks = [&](const std::string& name, int64_t count) {
    const int64_t groups = (count + 15) / 16;
    c->IntsOut(name + "_packed", {groups, (size + 2) / 2, 16, 2}, DType::kI8).Contiguous();
    c->IntsOut(name + "_scale", {groups * 16}, DType::kF16);
  };
  c->IntsOut("order", {slots});
  c->IntsOut("slot_packed", {slots / 16, size / 2, 16, 2}, DType::kI8).Contiguous();
  c->IntsOut("slot_scale", {slots}, DType::kF16);
  landmarks("leaf", slots / GateTreeView::kLeaf);
  landmarks("node", slots / GateTreeView::kNode);
}

GateTreeView TreeOf(const Tensors& t, const GateTreeShape& shape, int64_t num_keys) {
  return {shape,
          num_keys,
          t["order"],
          {t["slot_packed"], t["slot_scale"], 0},
          {t["leaf_packed"], t["leaf_scale"], 0},
          {t["node_packed"], t["node_scale"], 0}};
}

// Packs keys, then closes the groups in two calls.
OpCase TreeCase(int64_t group, int64_t num_keys, int64_t size, const Fill& fill = Normal()) {
  OpCase c(fmt::format("BuildGateTree, groups of {} of {} keys of {}", group, num_keys, size));
  const GateTreeShape shape{group, num_keys};
  c.In("gk", {num_keys, size}, fill);
  AddPackedKeys((num_keys + 15) / 16 * 16, size, &c);
  AddTree(shape, size, &c);
  c.forward = [=](Ops& ops, const Tensors& t) {
    const GateKeyView keys{t["packed"], t["scale"], num_keys};
    const GateTreeView tree = TreeOf(t, shape, 0);
    ops.PackGateKeys({t["gk"], 0, keys});
    ops.BuildGateTree({keys, 0, num_keys / 3, tree});
    ops.BuildGateTree({keys, num_keys / 3, num_keys, tree});
  };
  return c;
}

TEST(BuildGateTree, Shapes) {
  EXPECT_TRUE(CheckCases({TreeCase(256, 256, 32), TreeCase(256, 800, 8), TreeCase(512, 1030, 14),
                          TreeCase(1024, 1024, 2), TreeCase(256, 4500, 32), TreeCase(4096, 8192, 32),
                          TreeCase(512, 500, 8)}));
}

TEST(BuildGateTree, KeysAlikeAndUnusual) {
  OpCase odd = TreeCase(256, 256, 8);
  std::vector<double>& gk = odd.Find("gk")->values;
  gk[3] = kNaN;
  gk[8 + 5] = kInfinity;
  std::fill_n(gk.begin() + 24, 8, 1e7);
  EXPECT_TRUE(CheckCases({odd, TreeCase(512, 512, 8, Constant(0)), TreeCase(512, 512, 8, Constant(0.3))}));
}

// SelectKeys -----------------------------------------------------------------------------------

struct Selection {
  int64_t gate_heads = 4;
  int64_t size = 32;
  int64_t num_selected = 4;
  int64_t width = 7;
  bool scores = true;  // SelectKeys gives them.
  // With a tree:
  int64_t group = 0;
  int64_t beam = 0;
  int64_t min_keys = 0;

  std::string ToString() const {
    return fmt::format("{} gate heads of {}, {} of {}{}", gate_heads, size, num_selected, width,
                       group == 0 ? "" : fmt::format(", tree of {}, beam {}", group, beam));
  }
};

// Packs the keys, then selects.
OpCase SelectCase(const AttentionShape& s, const Selection& choice, const Fill& keys = Normal()) {
  OpCase c(fmt::format("SelectKeys, {}, {}", s.ToString(), choice.ToString()));
  c.In("gq", {s.tokens, choice.gate_heads, choice.size}, Normal(s.scale))
      .In("gw", {s.tokens, choice.gate_heads});
  c.In("gk", {s.keys(), choice.size}, keys);
  AddPackedKeys((s.keys() + 15) / 16 * 16, choice.size, &c);
  if (!s.segment_start.empty()) c.Ints("segment_start", {s.tokens}, s.segment_start);
  const bool with_tree = choice.group > 0;
  if (with_tree) AddTree({choice.group, s.keys()}, choice.size, &c);
  c.IntsOut("candidates", {s.tokens, choice.width});
  // The reference gives scores no magnitude: they must be equal.
  if (choice.scores) c.Out("scores", {s.tokens, choice.width});
  c.num_rows = s.tokens;
  c.rows = [s, choice, with_tree](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    const GateKeyView packed{t["packed"], t["scale"], s.keys()};
    ops.PackGateKeys({t["gk"], 0, packed});
    SelectKeysArgs args;
    args.gq = t["gq"].Rows(begin, end);
    args.gw = t["gw"].Rows(begin, end);
    args.keys = packed;
    args.num_selected = choice.num_selected;
    args.candidates = t["candidates"].Rows(begin, end);
    args.span.query_offset = s.query_offset + begin;
    args.span.window = s.window;
    args.span.num_sinks = s.num_sinks;
    if (!s.segment_start.empty()) args.span.segment_start = t["segment_start"].Rows(begin, end);
    if (choice.scores) args.scores = t["scores"].Rows(begin, end);
    if (with_tree) {
      args.search = {TreeOf(t, {choice.group, s.keys()}, s.keys()), choice.beam, choice.min_keys};
      ops.BuildGateTree({packed, 0, s.keys(), args.search.tree});
    }
    ops.SelectKeys(args);
  };
  return c;
}

TEST(SelectKeys, Shapes) {
  std::vector<OpCase> cases;
  for (const int64_t size : {2, 8, 14, 16, 32, 64})
    cases.push_back(SelectCase({.tokens = 40}, {.size = size}));
  for (const int64_t gate_heads : {1, 2, 3, 8})
    cases.push_back(SelectCase({.tokens = 40}, {.gate_heads = gate_heads}));
  for (const int64_t tokens : {0, 1, 6, 7, 8, 22, 23}) cases.push_back(SelectCase({.tokens = tokens}, {}));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(SelectKeys, HowManyAreWanted) {
  EXPECT_TRUE(CheckCases({SelectCase({.tokens = 40}, {.num_selected = 0, .width = 0}),
                          SelectCase({.tokens = 40}, {.num_selected = 0, .width = 5}),
                          SelectCase({.tokens = 40}, {.num_selected = 5, .width = 5}),
                          SelectCase({.tokens = 40}, {.num_selected = 1, .width = 1}),
                          SelectCase({.tokens = 40}, {.num_selected = 100, .width = 130}),
                          SelectCase({.tokens = 40}, {.num_selected = 16, .width = 80}),
                          SelectCase({.tokens = 40}, {.scores = false})}));
}

TEST(SelectKeys, WindowsSinksAndSegments) {
  std::vector<int32_t> segments(40, 0);
  std::fill(segments.begin() + 13, segments.end(), 13);
  std::fill(segments.begin() + 30, segments.end(), 30);
  EXPECT_TRUE(CheckCases(
      {SelectCase({.tokens = 40, .window = 1, .num_sinks = 0}, {}),
       SelectCase({.tokens = 20, .window = 100}, {}), SelectCase({.tokens = 20, .num_sinks = 50}, {}),
       SelectCase({.tokens = 40, .window = 2, .segment_start = segments}, {}),
       SelectCase({.tokens = 3, .window = 2, .query_offset = 60, .segment_start = {37, 37, 62}}, {})}));
}

TEST(SelectKeys, ManyKeys) {
  EXPECT_TRUE(CheckCases(
      {SelectCase({.tokens = 3, .window = 128, .query_offset = 3000}, {.num_selected = 64, .width = 128}),
       SelectCase({.tokens = 2, .window = 5, .query_offset = 2500, .segment_start = {777, 777}},
                  {.num_selected = 128, .width = 128}),
       SelectCase({.tokens = 150, .window = 7}, {.num_selected = 16, .width = 32})}));
}

// So many that most are passed over by their bound; for one query, for a few and for a whole tile.
TEST(SelectKeys, MostKeysAreNotScored) {
  EXPECT_TRUE(CheckCases(
      {SelectCase({.tokens = 1, .window = 128, .query_offset = 21000}, {.num_selected = 64, .width = 64}),
       SelectCase({.tokens = 1, .window = 5, .query_offset = 15011, .segment_start = {777}},
                  {.gate_heads = 3, .size = 30, .num_selected = 7, .width = 9}),
       SelectCase({.tokens = 1, .window = 1, .num_sinks = 0, .query_offset = 13003},
                  {.gate_heads = 5, .size = 6, .num_selected = 16, .width = 16}),
       SelectCase({.tokens = 3, .window = 9, .query_offset = 12345}, {.num_selected = 20, .width = 40}),
       SelectCase({.tokens = 18, .window = 33, .query_offset = 9001}, {.num_selected = 30, .width = 32})}));
}

// Keys that repeat every 16, all alike, or all zero: the lower position wins.
TEST(SelectKeys, Ties) {
  const Fill repeated = [](int64_t n, Random& random) {
    std::vector<double> values(static_cast<size_t>(n));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = i < 16 * 32 ? random.Normal() : values[i - 16 * 32];
    return values;
  };
  OpCase weightless = SelectCase({.tokens = 300}, {.num_selected = 20, .width = 30});
  weightless.Find("gq")->values.assign(300 * 4 * 32, 0);
  EXPECT_TRUE(CheckCases(
      {SelectCase({.tokens = 3, .query_offset = 400}, {.num_selected = 30, .width = 50}, repeated),
       SelectCase({.tokens = 3, .query_offset = 400}, {.num_selected = 64, .width = 64}, repeated),
       SelectCase({.tokens = 3, .query_offset = 400}, {.num_selected = 64, .width = 64}, Constant(0.5)),
       SelectCase({.tokens = 3, .query_offset = 400}, {.num_selected = 64, .width = 70}, Constant(0)),
       weightless}));
}

// Rising and falling scores: the worst and the best case of a running threshold.
TEST(SelectKeys, SortedScores) {
  for (const double slope : {0.001, -0.001}) {
    const Fill sorted = [slope](int64_t n, Random&) {
      std::vector<double> values(static_cast<size_t>(n));
      for (size_t i = 0; i < values.size(); ++i) values[i] = 3 + slope * static_cast<double>(i / 32);
      return values;
    };
    OpCase c = SelectCase({.tokens = 2, .query_offset = 2000}, {.num_selected = 64, .width = 96}, sorted);
    c.Find("gq")->values.assign(2 * 4 * 32, 1);
    EXPECT_TRUE(CheckCases({c})) << slope;
  }
}

TEST(SelectKeys, UnusualValues) {
  OpCase c = SelectCase({.tokens = 40}, {.num_selected = 6, .width = 9});
  c.Find("gq")->values[35 * 128 + 7] = kNaN;
  c.Find("gq")->values[36 * 128 + 40] = kInfinity;
  c.Find("gw")->values[37 * 4 + 1] = kNaN;
  c.Find("gw")->values[38 * 4 + 2] = -200;
  c.Find("gw")->values[39 * 4 + 2] = 200;
  c.Find("gk")->values[9 * 32 + 3] = kNaN;
  c.Find("gk")->values[11 * 32 + 3] = -kInfinity;
  EXPECT_TRUE(CheckCases(
      {c, SelectCase({.tokens = 40, .scale = 1e-20}, {}), SelectCase({.tokens = 40, .scale = 1e15}, {})}));
}

// Tiles, split queries, groups that close within the rows, a beam of some, sinks of a whole leaf.
TEST(SelectKeysWithTree, Shapes) {
  EXPECT_TRUE(
      CheckCases({SelectCase({.tokens = 40, .window = 7, .query_offset = 1500}, {.group = 256, .beam = 3}),
                  SelectCase({.tokens = 40, .window = 7, .query_offset = 1500},
                             {.size = 14, .num_selected = 16, .width = 40, .group = 512, .beam = 4}),
                  SelectCase({.tokens = 40, .window = 7, .query_offset = 1014}, {.group = 1024, .beam = 9}),
                  SelectCase({.tokens = 40, .window = 7, .query_offset = 1014},
                             {.group = 256, .beam = 9, .min_keys = 1020}),
                  SelectCase({.tokens = 300, .window = 7}, {.group = 256, .beam = 2}),
                  SelectCase({.tokens = 3, .window = 7, .query_offset = 9000},
                             {.gate_heads = 3, .num_selected = 20, .width = 20, .group = 1024, .beam = 7}),
                  SelectCase({.tokens = 2, .window = 128, .query_offset = 12000},
                             {.num_selected = 64, .width = 64, .group = 4096, .beam = 20}),
                  SelectCase({.tokens = 1, .window = 2, .num_sinks = 40, .query_offset = 5000},
                             {.num_selected = 9, .width = 9, .group = 256, .beam = 17}),
                  SelectCase({.tokens = 20, .query_offset = 300},
                             {.num_selected = 0, .width = 0, .group = 256, .beam = 1})}));
}

// Rows of the flat selection: a beam of all leaves finds the same keys, also among ties.
TEST(SelectKeysWithTree, BeamOfAllIsTheFlatScan) {
  const Fill repeated = [](int64_t n, Random& random) {
    std::vector<double> values(static_cast<size_t>(n));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = i < 48 * 32 ? random.Normal() : values[i - 48 * 32];
    return values;
  };
  for (const Fill& fill : {Normal(), repeated, Constant(0), Constant(0.5)}) {
    for (const int64_t tokens : {1, 5, 70}) {
      const AttentionShape shape{.tokens = tokens, .window = 11, .query_offset = 5200};
      Selection choice{.num_selected = 30, .width = 50};
      OpCase flat = SelectCase(shape, choice, fill);
      choice.group = 512;
      choice.beam = 5200 / 16;
      OpCase tree = SelectCase(shape, choice, fill);
      for (const char* input : {"gq", "gw", "gk"}) tree.Find(input)->values = flat.Find(input)->values;
      const std::unique_ptr<Ops> ops = MakeOps("cpu");
      OpRun flat_run(flat, ops->dtype());
      OpRun tree_run(tree, ops->dtype());
      flat_run.Forward(*ops);
      tree_run.Forward(*ops);
      for (int64_t i = 0; i < tokens * 50; ++i) {
        ASSERT_EQ(flat_run.Get("candidates", i), tree_run.Get("candidates", i)) << i;
        ASSERT_EQ(flat_run.Get("scores", i), tree_run.Get("scores", i)) << i;
      }
    }
  }
}

TEST(SelectKeysWithTree, UnusualValues) {
  OpCase c = SelectCase({.tokens = 8, .query_offset = 1030},
                        {.num_selected = 6, .width = 9, .group = 256, .beam = 4});
  c.Find("gq")->values[3 * 128 + 7] = kNaN;
  c.Find("gq")->values[4 * 128 + 40] = kInfinity;
  c.Find("gw")->values[5 * 4 + 1] = kNaN;
  c.Find("gw")->values[6 * 4 + 2] = -200;
  c.Find("gk")->values[9 * 32 + 3] = kNaN;
  c.Find("gk")->values[300 * 32 + 3] = -kInfinity;
  EXPECT_TRUE(CheckCases(
      {c, SelectCase({.tokens = 8, .query_offset = 1030, .scale = 1e-20}, {.group = 256, .beam = 4})}));
}

// GateScores -----------------------------------------------------------------------------------

OpCase ScoresCase(const AttentionShape& s, const Selection& choice, Padding padding = Padding::kAtTheEnd) {
  OpCase c(fmt::format("GateScores, {}, {}", s.ToString(), choice.ToString()));
  const Shape queries = {s.tokens, choice.gate_heads, choice.size};
  const Shape weights = {s.tokens, choice.gate_heads};
  const Shape keys = {s.keys(), choice.size};
  const Shape lists = {s.tokens, choice.width};
  c.In("gq", queries, Normal(s.scale)).In("gw", weights).In("gk", keys);
  c.Ints("candidates", lists, RandomCandidates(s, choice.num_selected, choice.width, padding, 5));
  c.Out("scores", lists).Out("threshold", {s.tokens});
  c.In("dscores", lists).Out("dgq", queries).Out("dgw", weights).Out("dgk", keys);
  c.num_rows = s.tokens;
  c.rows = [choice](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.GateScores({t["gq"].Rows(begin, end), t["gw"].Rows(begin, end), t["gk"],
                    t["candidates"].Rows(begin, end), choice.num_selected, t["scores"].Rows(begin, end),
                    t["threshold"].Rows(begin, end)});
  };
  c.gradient = [](Ops& ops, const Tensors& t) {
    ops.GateScoresGrad(
        {t["gq"], t["gw"], t["gk"], t["candidates"], t["dscores"], t["dgq"], t["dgw"], t["dgk"]});
  };
  c.differentiable = {"gq", "gw", "gk"};
  return c;
}

TEST(GateScores, Shapes) {
  std::vector<OpCase> cases;
  for (const int64_t size : {1, 7, 8, 9, 15, 16, 17, 32}) cases.push_back(ScoresCase({}, {.size = size}));
  for (const int64_t gate_heads : {1, 2, 3}) cases.push_back(ScoresCase({}, {.gate_heads = gate_heads}));
  for (const int64_t tokens : {0, 1, 40}) cases.push_back(ScoresCase({.tokens = tokens}, {}));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(GateScores, LongSequences) {
  OpCase c = ScoresCase({.tokens = 200, .window = 20}, {.num_selected = 20, .width = 40});
  c.differentiable = {};
  EXPECT_TRUE(CheckCases({c}));
}

// FarScores ------------------------------------------------------------------------------------

OpCase FarCase(const AttentionShape& s, int64_t gate_heads = 4, int64_t size = 8, int64_t spare_columns = 0) {
  OpCase c(fmt::format("FarScores, {}, {} gate heads of {}", s.ToString(), gate_heads, size));
  const Shape queries = {s.tokens, gate_heads, size};
  const Shape weights = {s.tokens, gate_heads};
  const Shape keys = {s.keys(), size};
  const Shape scores = {s.tokens, s.WithFullBias().bias_columns + spare_columns};
  c.In("gq", queries).In("gw", weights).In("gk", keys).Out("scores", scores);
  if (!s.segment_start.empty()) c.Ints("segment_start", {s.tokens}, s.segment_start);
  const auto span = [s](const Tensors& t, int64_t begin, int64_t end) {
    AttentionSpan result;
    result.query_offset = s.query_offset + begin;
    result.window = s.window;
    result.num_sinks = s.num_sinks;
    if (!s.segment_start.empty()) result.segment_start = t["segment_start"].Rows(begin, end);
    return result;
  };
  c.num_rows = s.tokens;
  c.rows = [span](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.FarScores({t["gq"].Rows(begin, end), t["gw"].Rows(begin, end), t["gk"], span(t, begin, end),
                   t["scores"].Rows(begin, end)});
  };
  if (s.query_offset > 0 || s.spare_keys > 0) return c;
  c.In("dscores", scores).Out("dgq", queries).Out("dgw", weights).Out("dgk", keys);
  c.gradient = [span, s](Ops& ops, const Tensors& t) {
    ops.FarScoresGrad(
        {t["gq"], t["gw"], t["gk"], span(t, 0, s.tokens), t["dscores"], t["dgq"], t["dgw"], t["dgk"]});
  };
  c.differentiable = {"gq", "gw", "gk"};
  return c;
}

TEST(FarScores, Shapes) {
  OpCase many = FarCase({.tokens = 200, .window = 20}, 4, 32);
  many.differentiable = {};
  EXPECT_TRUE(CheckCases({FarCase({}), FarCase({.tokens = 0}), FarCase({.tokens = 1}), FarCase({.tokens = 7}),
                          FarCase({}, 3, 17), FarCase({}, 1, 2), FarCase({}, 9, 16), FarCase({}, 4, 8, 5),
                          FarCase({.window = 100}), FarCase({.window = 1, .num_sinks = 0}),
                          FarCase({.window = 2, .segment_start = {0, 0, 0, 0, 0, 5, 6, 6, 6, 6, 6, 6}}),
                          FarCase({.tokens = 5, .query_offset = 30, .spare_keys = 2}), many}));
}

TEST(UnpackGateKeys, GivesWhatWasPacked) {
  OpCase c("UnpackGateKeys");
  c.In("gk", {37, 8});
  AddPackedKeys(48, 8, &c);
  c.Out("unpacked", {35, 8});
  c.forward = [](Ops& ops, const Tensors& t) {
    const GateKeyView keys{t["packed"], t["scale"], 37};
    ops.PackGateKeys({t["gk"], 0, keys});
    ops.UnpackGateKeys({keys, t["unpacked"]});
  };
  EXPECT_TRUE(CheckCases({c}));
}

TEST(GateScores, Lists) {
  EXPECT_TRUE(
      CheckCases({ScoresCase({.tokens = 30}, {.num_selected = 1, .width = 1}),
                  ScoresCase({.tokens = 30}, {.num_selected = 9, .width = 9}),
                  ScoresCase({.tokens = 30}, {.num_selected = 20, .width = 50}),
                  ScoresCase({.tokens = 30}, {}, Padding::kAnywhere),
                  ScoresCase({.window = 2, .segment_start = {0, 0, 0, 0, 0, 5, 6, 6, 6, 6, 6, 6}}, {})}));
}

}  // namespace
}  // namespace sluice
