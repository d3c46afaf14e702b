// Cases of KeepMass.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "backend/backend.h"
#include "backend/testing/harness.h"
#include "base/random.h"

namespace sluice {
namespace {

// `tokens` rows of `width` columns, the last `absent` of which are empty in every other row. `levels` > 0:
// scores take that many values alone, so that many are equal.
OpCase KeepCase(int64_t tokens, int64_t width, int64_t absent, double mass, int64_t min_keys,
                uint64_t levels = 0) {
  OpCase c(fmt::format("KeepMass {} x {}, {} absent, mass {}, at least {}, {} levels", tokens, width, absent,
                       mass, min_keys, levels));
  Random random(static_cast<uint64_t>(tokens * 1000 + width));
  std::vector<int32_t> keys;
  for (int64_t t = 0; t < tokens; ++t) {
    int32_t key = 0;
    for (int64_t j = 0; j < width; ++j) {
      key += 1 + static_cast<int32_t>(random.Below(20));
      keys.push_back(t % 2 == 1 && j >= width - absent ? -1 : key);
    }
  }
  c.Ints("candidates", {tokens, width}, keys);
  c.In("scores", {tokens, width});
  for (double& score : c.Find("scores")->values)
    score = levels > 0 ? static_cast<double>(random.Below(levels)) : std::abs(score) * 4;
  c.IntsOut("kept", {tokens, width});
  // The reference gives scores no magnitude: they must be equal.
  c.Out("kept_scores", {tokens, width});
  c.num_rows = tokens;
  c.rows = [=](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    KeepMassArgs args;
    args.candidates = t["candidates"].Rows(begin, end);
    args.scores = t["scores"].Rows(begin, end);
    args.mass = mass;
    args.min_keys = min_keys;
    args.kept = t["kept"].Rows(begin, end);
    args.kept_scores = t["kept_scores"].Rows(begin, end);
    ops.KeepMass(args);
  };
  return c;
}

TEST(KeepMass, Shapes) {
  std::vector<OpCase> cases;
  for (const int64_t tokens : {0, 1, 2, 3, 70}) cases.push_back(KeepCase(tokens, 9, 3, 0.9, 2));
  for (const int64_t width : {1, 2, 15, 16, 17, 128}) cases.push_back(KeepCase(5, width, width / 2, 0.9, 1));
  cases.push_back(KeepCase(6, 9, 9, 0.9, 1));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(KeepMass, MassAndLeastNumber) {
  std::vector<OpCase> cases;
  for (const double mass : {1e-9, 0.1, 0.5, 0.99, 0.999999, 1.0})
    cases.push_back(KeepCase(9, 64, 7, mass, 1));
  for (const int64_t min_keys : {1, 2, 63, 64, 100}) cases.push_back(KeepCase(9, 64, 7, 0.5, min_keys));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(KeepMass, Ties) {
  EXPECT_TRUE(CheckCases({KeepCase(20, 40, 5, 0.5, 1, 3), KeepCase(20, 40, 5, 0.9, 1, 2),
                          KeepCase(20, 40, 5, 0.3, 6, 1), KeepCase(20, 40, 0, 0.95, 1, 10)}));
}

TEST(KeepMass, KeepsTheFewestThatHoldTheMass) {
  const auto ops = MakeOps("cpu");
  // Softmax 0.64, 0.24, 0.09, 0.03 in some order; in place.
  std::vector<float> all_scores = {1, 3, 0, 2};
  std::vector<float> scores;
  const auto kept = [&](double mass, int64_t min_keys) {
    scores = all_scores;
    std::vector<int32_t> keys = {10, 20, 30, 40};
    const TensorView view = TensorView::Of(keys.data(), {1, 4});
    const TensorView score_view = TensorView::Of(scores.data(), {1, 4});
    ops->KeepMass({view, score_view, mass, min_keys, view, score_view});
    return keys;
  };
  EXPECT_EQ(kept(0.6, 1), (std::vector<int32_t>{20, -1, -1, -1}));
  EXPECT_EQ(kept(0.8, 1), (std::vector<int32_t>{20, 40, -1, -1}));
  EXPECT_EQ(kept(0.9, 1), (std::vector<int32_t>{10, 20, 40, -1}));
  EXPECT_EQ(scores, (std::vector<float>{1, 3, 2, 0}));
  EXPECT_EQ(kept(0.1, 3), (std::vector<int32_t>{10, 20, 40, -1}));
  EXPECT_EQ(kept(1.0, 1), (std::vector<int32_t>{10, 20, 30, 40}));
  EXPECT_EQ(scores, all_scores);
  all_scores = {2, 2, 2, 2};
  EXPECT_EQ(kept(0.5, 1), (std::vector<int32_t>{10, 20, -1, -1}));
}

}  // namespace
}  // namespace sluice
