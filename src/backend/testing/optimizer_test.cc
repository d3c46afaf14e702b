// Cases of AdamW and Muon.
#include <gtest/gtest.h>

#include "backend/testing/harness.h"

namespace sluice {
namespace {

OpCase AdamWCase(Shape shape, int64_t step, double weight_decay = 0.1, double grad_scale = 0.01) {
  OpCase c(fmt::format("AdamW {}, step {}", shape.ToString(), step));
  c.InOut("param", shape).In("grad", shape, Normal(grad_scale));
  c.InOut("m", shape, Normal(0.01)).InOut("v", shape, Uniform(0, 1e-4));
  c.forward = [step, weight_decay](Ops& ops, const Tensors& t) {
    AdamWArgs args{t["param"], t["grad"], t["m"], t["v"]};
    args.lr = 3e-3;
    args.weight_decay = weight_decay;
    args.step = step;
    ops.AdamW(args);
  };
  return c;
}

// The reference gives the orthogonalised update a magnitude by norms (its passes are untracked), so a
// small c is already generous.
OpCase MuonCase(Shape shape, double weight_decay = 0.1, int iterations = 5) {
  OpCase c(fmt::format("Muon {}, {} iterations", shape.ToString(), iterations));
  c.InOut("param", shape).In("grad", shape).InOut("momentum", shape);
  for (TensorSpec& spec : c.tensors) spec.contiguous = shape.rank() == 2;
  c.forward = [=](Ops& ops, const Tensors& t) {
    MuonArgs args{t["param"], t["grad"], t["momentum"]};
    args.lr = 0.02;
    args.mu = 0.95;
    args.weight_decay = weight_decay;
    args.iterations = iterations;
    ops.Muon(args);
  };
  c.c = 2;
  return c;
}

TEST(AdamW, Sizes) {
  std::vector<OpCase> cases = {AdamWCase({3, 17}, 2), AdamWCase({2, 3, 5}, 1000)};
  for (const int64_t n : {0, 1, 7, 8, 9, 15, 16, 17, 1000}) cases.push_back(AdamWCase({n}, 7));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(AdamW, FirstStepAndZeroState) {
  OpCase first = AdamWCase({5, 9}, 1, 0);
  first.Find("m")->values.assign(45, 0);
  first.Find("v")->values.assign(45, 0);
  OpCase no_gradient = AdamWCase({4, 9}, 1);
  for (const char* name : {"grad", "m", "v"}) no_gradient.Find(name)->values.assign(36, 0);
  EXPECT_TRUE(CheckCases({first, no_gradient}));
}

TEST(Muon, WideTallAndBatched) {
  EXPECT_TRUE(CheckCases({MuonCase({8, 8}), MuonCase({5, 17}), MuonCase({17, 5}), MuonCase({1, 9}),
                          MuonCase({9, 1}), MuonCase({3, 6, 10}), MuonCase({2, 10, 6}, 0), MuonCase({40, 64}),
                          MuonCase({7, 7}, 0.1, 1)}));
}

TEST(Muon, ZeroGradientAndEmpty) {
  OpCase zero = MuonCase({4, 6});
  zero.Find("grad")->values.assign(24, 0);
  zero.Find("momentum")->values.assign(24, 0);
  EXPECT_TRUE(CheckCases({zero, MuonCase({0, 4, 4})}));
}

}  // namespace
}  // namespace sluice
