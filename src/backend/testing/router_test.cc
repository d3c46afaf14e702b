// Cases of Router, its losses, gradient and histogram.
#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "backend/backend.h"
#include "backend/testing/harness.h"

namespace sluice {
namespace {

struct RouterShape {
  int64_t sequences = 2;
  int64_t length = 6;
  int64_t experts = 8;
  int64_t k = 2;
  RouterCapacity capacity = {};
  // Added to the logits of expert 0 and 1, so that they overflow.
  double skew = 0;
  RouterScores scores = RouterScores::kSigmoid;

  int64_t tokens() const { return sequences * length; }
  std::string ToString() const {
    return fmt::format("Router {} x {}, {} of {} experts, capacity {} {} {}, skew {}, softmax {}", sequences,
                       length, k, experts, static_cast<int>(capacity.rule), capacity.factor,
                       capacity.reroutes, skew, scores == RouterScores::kSoftmax);
  }
};

Fill Skewed(int64_t experts, double skew) {
  return [=](int64_t n, Random& random) {
    std::vector<double> values(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i)
      values[static_cast<size_t>(i)] = random.Normal() + (i % experts < 2 ? skew : 0);
    return values;
  };
}

RouterCapacity Capacity(double factor) {
  RouterCapacity capacity = {};
  capacity.rule = CapacityRule::kDynamic;
  capacity.factor = factor;
  capacity.prior_tokens = 8;
  return capacity;
}

OpCase RoutingCase(const RouterShape& s, const Fill& logits) {
  OpCase c(s.ToString());
  c.In("logits", {s.tokens(), s.experts}, logits).In("bias", {s.experts}, Normal(0.2));
  c.Out("probs", {s.tokens(), s.experts}).IntsOut("choices", {s.tokens(), s.k});
  c.IntsOut("experts", {s.tokens(), s.k}).Out("gates", {s.tokens(), s.k});
  return c;
}

void Route(Ops& ops, const Tensors& t, const RouterShape& s, int64_t begin, int64_t end) {
  ops.Router({t["logits"].Rows(begin, end), t["bias"], s.k, s.scores, s.capacity, s.length,
              t["probs"].Rows(begin, end), t["choices"].Rows(begin, end), t["experts"].Rows(begin, end),
              t["gates"].Rows(begin, end)});
}

// Without a capacity every token is routed by itself.
OpCase FreeRoutingCase(const RouterShape& s, const Fill& logits) {
  OpCase c = RoutingCase(s, logits);
  c.num_rows = s.tokens();
  c.rows = [s](Ops& ops, const Tensors& t, int64_t begin, int64_t end) { Route(ops, t, s, begin, end); };
  return c;
}

// Gates, losses and the gradient of Σ dgates · gates + Σ weights · losses; choices are constants.
OpCase RouterGradCase(const RouterShape& s, const RouterLossWeights& weights) {
  OpCase c = RoutingCase(s, Skewed(s.experts, s.skew));
  c.name += fmt::format(", weights {} {} {}", weights.balance, weights.sequence_balance, weights.z);
  c.In("dgates", {s.tokens(), s.k}).Out("dlogits", {s.tokens(), s.experts});
  // E Σ f P is about 1 before 1 is taken from it.
  c.ScalarOut("balance", 4).ScalarOut("sequence_balance", 4).ScalarOut("z", 1);
  c.forward = [s](Ops& ops, const Tensors& t) {
    Route(ops, t, s, 0, s.tokens());
    ops.RouterLoss({t["logits"], t["probs"], t["choices"], s.length, t.Scalar("balance"),
                    t.Scalar("sequence_balance"), t.Scalar("z")});
  };
  c.gradient = [s, weights](Ops& ops, const Tensors& t) {
    ops.RouterGrad({t["logits"], t["probs"], t["choices"], t["experts"], t["gates"], s.scores, s.length,
                    t["dgates"], weights, t["dlogits"]});
  };
  c.differentiable = {"logits"};
  c.loss = [s, weights](const Tensors& t) {
    double loss = weights.balance * *t.Scalar("balance") +
                  weights.sequence_balance * *t.Scalar("sequence_balance") + weights.z * *t.Scalar("z");
    for (int64_t r = 0; r < s.tokens(); ++r)
      for (int64_t j = 0; j < s.k; ++j)
        if (t["experts"].row<int32_t>(r)[j] >= 0)
          loss += t["dgates"].row<double>(r)[j] * t["gates"].row<double>(r)[j];
    return loss;
  };
  return c;
}

OpCase HistogramCase(int64_t tokens, int64_t experts, int64_t k, int64_t bins, double bias) {
  OpCase c(fmt::format("RouterHistogram {} tokens, {} of {} experts, {} bins", tokens, k, experts, bins));
  c.In("probs", {tokens, experts}, Uniform(0, 1)).In("bias", {experts}, Normal(bias));
  c.IntsOut("counts_acc", {experts, bins});  // Counts on from -77.
  c.forward = [k](Ops& ops, const Tensors& t) {
    ops.RouterHistogram({t["probs"], t["bias"], k, t["counts_acc"]});
  };
  return c;
}

TEST(Router, Choices) {
  EXPECT_TRUE(CheckCases({FreeRoutingCase({}, Normal()), FreeRoutingCase({.sequences = 0}, Normal()),
                          FreeRoutingCase({.sequences = 1, .length = 1}, Normal()),
                          FreeRoutingCase({.experts = 1, .k = 1}, Normal()),
                          FreeRoutingCase({.experts = 4, .k = 4}, Normal()),
                          FreeRoutingCase({.length = 40, .experts = 17, .k = 3}, Normal()),
                          FreeRoutingCase({.experts = 64, .k = 8}, Normal())}));
}

// The rule of Mixtral: softmax over all experts, renormalised over the chosen.
TEST(Router, SoftmaxScores) {
  constexpr RouterScores kSoftmax = RouterScores::kSoftmax;
  EXPECT_TRUE(CheckCases(
      {FreeRoutingCase({.scores = kSoftmax}, Normal()),
       FreeRoutingCase({.experts = 1, .k = 1, .scores = kSoftmax}, Normal()),
       FreeRoutingCase({.length = 40, .experts = 17, .k = 3, .scores = kSoftmax}, Normal(20)),
       RouterGradCase({.scores = kSoftmax}, {}), RouterGradCase({.scores = kSoftmax}, {.balance = 1}),
       RouterGradCase({.experts = 5, .k = 5, .scores = kSoftmax},
                      {.balance = 0.3, .sequence_balance = 0.7, .z = 0.1})}));
}

TEST(Router, TiesGoToTheLowerExpert) {
  OpCase c = FreeRoutingCase({.sequences = 1, .length = 3, .experts = 9, .k = 4}, Constant(0.25));
  c.Find("bias")->values.assign(9, 0);
  EXPECT_TRUE(CheckCases({c}));
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  OpRun run(c, ops->dtype());
  run.Forward(*ops);
  for (int64_t slot = 0; slot < 4; ++slot) EXPECT_EQ(run.Get("choices", slot), slot);
}

TEST(Router, Losses) {
  EXPECT_TRUE(CheckCases({RouterGradCase({}, {}), RouterGradCase({}, {.balance = 1}),
                          RouterGradCase({}, {.sequence_balance = 1}), RouterGradCase({}, {.z = 1}),
                          RouterGradCase({.sequences = 3, .length = 5, .experts = 5, .k = 5},
                                         {.balance = 0.3, .sequence_balance = 0.7, .z = 0.1}),
                          RouterGradCase({.sequences = 1, .length = 1, .experts = 16, .k = 1}, {1, 1, 1})}));
}

TEST(Router, CapacityOverflows) {
  std::vector<OpCase> cases;
  for (const double factor : {0.1, 1.0, 1.25}) {
    // Longer than two blocks of 64 positions; expert 0 and 1 are wanted by nearly all.
    RouterShape skewed{.sequences = 2, .length = 150, .experts = 4, .k = 2, .skew = 2};
    skewed.capacity = Capacity(factor);
    OpCase c = RouterGradCase(skewed, {.balance = 0.1, .sequence_balance = 0.1, .z = 0.1});
    cases.push_back(c);
    RouterShape all{.sequences = 3, .length = 70, .experts = 3, .k = 3};
    all.capacity = Capacity(factor);
    cases.push_back(RouterGradCase(all, {}));
    RouterShape many{.sequences = 1, .length = 200, .experts = 16, .k = 2, .skew = 4};
    many.capacity = Capacity(factor);
    cases.push_back(RouterGradCase(many, {.balance = 1}));
  }
  EXPECT_TRUE(CheckCases(cases));
}

// The rule of Switch: room for a fixed share of the batch, overflow is dropped.
TEST(Router, FixedCapacityDrops) {
  RouterShape s{.sequences = 2, .length = 150, .experts = 4, .k = 2, .skew = 2};
  s.capacity = Capacity(1);
  s.capacity.rule = CapacityRule::kFixed;
  std::vector<OpCase> cases;
  for (const RouterScores scores : {RouterScores::kSigmoid, RouterScores::kSoftmax}) {
    s.scores = scores;
    for (const bool reroutes : {false, true}) {
      s.capacity.reroutes = reroutes;
      cases.push_back(RouterGradCase(s, {.balance = 0.1}));
    }
  }
  EXPECT_TRUE(CheckCases(cases));
  s.capacity.reroutes = false;
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const OpCase c = RouterGradCase(s, {});
  OpRun run(c, ops->dtype());
  run.Forward(*ops);
  std::vector<int64_t> load(4);
  int64_t dropped = 0;
  for (int64_t t = 0; t < s.tokens(); ++t) {
    for (int64_t slot = 0; slot < s.k; ++slot) {
      const auto expert = static_cast<int64_t>(run.Get("experts", t * s.k + slot));
      if (expert < 0) {
        ++dropped;
        continue;
      }
      ++load[static_cast<size_t>(expert)];
      EXPECT_TRUE(expert == run.Get("choices", t * s.k) || expert == run.Get("choices", t * s.k + 1));
    }
  }
  EXPECT_GT(dropped, 50);
  for (const int64_t tokens : load) EXPECT_LE(tokens, 150);  // 1 · 2 · 300 / 4
}

// Over random shapes, skews and factors: no expert serves more than its limit at the end of any block, a
// token's experts are different ones, gates of a served token sum to 1.
TEST(Router, NoExpertServesMoreThanItsLimit) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  Random random(11);
  for (int trial = 0; trial < 60; ++trial) {
    const auto below = [&](uint64_t n) { return static_cast<int64_t>(random.Below(n)); };
    RouterShape s{.sequences = 1 + below(4), .length = 1 + below(200), .experts = 1 + below(20)};
    s.k = 1 + below(static_cast<uint64_t>(s.experts));
    s.skew = 6 * random.Uniform();
    s.capacity = Capacity(0.2 + 1.5 * random.Uniform());
    s.capacity.reroutes = below(2) == 0;
    const OpCase c = RoutingCase(s, Skewed(s.experts, s.skew));
    OpRun run(c, ops->dtype());
    Route(*ops, run.tensors(), s, 0, s.tokens());
    std::vector<int64_t> served(static_cast<size_t>(s.experts)), demand(served.size());
    for (int64_t begin = 0; begin < s.length; begin += RouterCapacity::kBlockPositions) {
      const int64_t end = std::min(s.length, begin + RouterCapacity::kBlockPositions);
      const std::vector<int64_t> demand_before = demand;
      for (int64_t row = 0; row < s.sequences; ++row) {
        for (int64_t t = row * s.length + begin; t < row * s.length + end; ++t) {
          double gates = 0;
          std::set<int64_t> own;
          for (int64_t slot = 0; slot < s.k; ++slot) {
            const auto expert = static_cast<int64_t>(run.Get("experts", t * s.k + slot));
            ++demand[static_cast<size_t>(run.Get("choices", t * s.k + slot))];
            gates += run.Get("gates", t * s.k + slot);
            if (expert < 0) continue;
            ++served[static_cast<size_t>(expert)];
            EXPECT_TRUE(own.insert(expert).second);
          }
          EXPECT_NEAR(gates, own.empty() ? 0 : 1, 1e-5);
        }
      }
      for (size_t e = 0; e < served.size(); ++e) {
        EXPECT_LE(served[e], s.capacity.Limit(s.k, s.experts, demand_before[e], s.sequences * begin,
                                              s.sequences * end, s.tokens()))
            << s.ToString() << " expert " << e << " position " << end;
      }
    }
  }
}

TEST(Router, IdenticalTokensOverflowInOrder) {
  RouterShape s{.sequences = 1, .length = 128, .experts = 8, .k = 2};
  s.capacity = Capacity(1);
  OpCase c = RoutingCase(s, Constant(0.5));
  c.Find("bias")->values.assign(8, 0);
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  OpRun run(c, ops->dtype());
  Route(*ops, run.tensors(), s, 0, s.tokens());
  // All want the same two; the first have them.
  EXPECT_EQ(run.Get("experts", 0), run.Get("choices", 0));
  EXPECT_EQ(run.Get("choices", 2 * 127), run.Get("choices", 0));
  EXPECT_EQ(run.Get("experts", 2 * 63), -1);
}

TEST(Router, CapacityLeavesSlotsUnserved) {
  RouterShape s{.sequences = 2, .length = 150, .experts = 8, .k = 2, .skew = 6};
  s.capacity = Capacity(1);
  const OpCase c = RouterGradCase(s, {});
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  OpRun run(c, ops->dtype());
  run.Forward(*ops);
  int64_t moved = 0;
  for (int64_t i = 0; i < s.tokens() * s.k; ++i) moved += run.Get("experts", i) != run.Get("choices", i);
  EXPECT_GT(moved, 50);
}

// The routing of a token is the same whatever comes after its block of positions.
TEST(Router, NoTokenDependsOnALaterBlock) {
  RouterShape s{.sequences = 1, .length = 192, .experts = 6, .k = 2, .skew = 2};
  s.capacity = Capacity(1);
  OpCase c = RoutingCase(s, Skewed(s.experts, s.skew));
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  OpRun whole(c, ops->dtype());
  OpRun start(c, ops->dtype());
  Route(*ops, whole.tensors(), s, 0, 192);
  s.length = 128;
  Route(*ops, start.tensors(), s, 0, 128);
  for (int64_t i = 0; i < 128 * s.k; ++i) EXPECT_EQ(whole.Get("experts", i), start.Get("experts", i)) << i;
}

TEST(Router, NaNLogitsAreAnError) {
  for (const char* name : {"cpu", "reference"}) {
    const std::unique_ptr<Ops> ops = MakeOps(name);
    OpCase c = FreeRoutingCase({}, Normal());
    c.Find("logits")->values[13] = std::numeric_limits<double>::quiet_NaN();
    OpRun run(c, ops->dtype());
    EXPECT_THROW(run.Forward(*ops), InputError) << name;
  }
}

TEST(RouterHistogram, Counts) {
  EXPECT_TRUE(CheckCases({HistogramCase(50, 8, 2, 64, 0.1), HistogramCase(50, 4, 4, 100, 0.1),
                          HistogramCase(20, 8, 1, 7, 0), HistogramCase(30, 5, 2, 32, 3),
                          HistogramCase(0, 4, 2, 16, 0.1), HistogramCase(10, 1, 1, 16, 0.1)}));
}

}  // namespace
}  // namespace sluice
