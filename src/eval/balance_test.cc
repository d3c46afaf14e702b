// Measures of balance against values worked out by hand.
#include "eval/balance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "eval/expert_load_report.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

void ExpectBalance(const std::vector<int64_t>& counts, const Balance& wanted) {
  const Balance balance = BalanceOf(counts);
  EXPECT_NEAR(balance.utilisation, wanted.utilisation, 1e-12);
  EXPECT_NEAR(balance.cv, wanted.cv, 1e-12);
  EXPECT_NEAR(balance.gini, wanted.gini, 1e-12);
  EXPECT_NEAR(balance.effective, wanted.effective, 1e-12);
  EXPECT_NEAR(balance.min_to_mean, wanted.min_to_mean, 1e-12);
}

TEST(BalanceTest, EvenUse) {
  ExpectBalance({7, 7, 7, 7}, {1, 0, 0, 1, 1});
}

TEST(BalanceTest, OneExpertTakesAll) {
  ExpectBalance({0, 0, 9, 0}, {0.25, std::sqrt(3.0), 0.75, 0.25, 0});
}

TEST(BalanceTest, WithoutRowsAsIfEven) {
  ExpectBalance({0, 0, 0}, {1, 0, 0, 1, 1});
}

TEST(BalanceTest, ASingleExpertIsEven) {
  ExpectBalance({5}, {1, 0, 0, 1, 1});
  ExpectBalance({0}, {1, 0, 0, 1, 1});
}

TEST(BalanceTest, UnevenUse) {
  // Mean 4. The six pairs of 1, 3, 4, 8 differ by 2, 3, 7, 1, 5 and 4: 44 over 2 · 4² · 4, counted twice.
  double entropy = 0;
  for (const double n : {1.0, 3.0, 4.0, 8.0}) entropy -= n / 16 * std::log(n / 16);
  ExpectBalance({3, 8, 1, 4},
                {0.5, std::sqrt((9 + 1 + 0 + 16) / 4.0) / 4, 44.0 / 128, std::exp(entropy) / 4, 0.25});
}

TEST(BalanceTest, TheWorstLayerIsTheFirstOfLowestUtilisation) {
  EXPECT_EQ(WorstLayer({{1, 0, 0, 1, 1}, {0.5, 0, 0, 1, 1}, {0.5, 0, 0, 1, 1}}), 1);
  const Balance mean = MeanOf({{1, 0, 0, 1, 1}, {0.5, 1, 0.5, 0.5, 0}});
  EXPECT_DOUBLE_EQ(mean.utilisation, 0.75);
  EXPECT_DOUBLE_EQ(mean.cv, 0.5);
  EXPECT_DOUBLE_EQ(mean.gini, 0.25);
  EXPECT_DOUBLE_EQ(mean.effective, 0.75);
  EXPECT_DOUBLE_EQ(mean.min_to_mean, 0.5);
}

TEST(ExpertLoadReportTest, BarsAndJsonShowTheCounts) {
  ExpertLoad load(2, 4);
  // 16, 0, 1 and 8 rows of 13 tokens; one slot was not served.
  std::vector<int32_t> experts(16, 0);
  experts.push_back(2);
  experts.insert(experts.end(), 8, 3);
  experts.push_back(-1);
  load.Count(1, TensorView::Of(experts.data(), {13, 2}));
  load.Count(1, TensorView::Of(experts.data(), {13, 2}));
  // 32, 0, 2 and 16 rows: eighths of the fullest, rounded up. Layer 0 has none.
  EXPECT_THAT(ExpertLoadBars(load), HasSubstr("█ ▁▄"));
  const nlohmann::ordered_json json = ExpertLoadJson(load);
  EXPECT_EQ(json["num_experts"], 4);
  EXPECT_EQ(json["utilisation"]["worst_layer"], 1);
  EXPECT_EQ(json["utilisation"]["worst"], 12.5 / 32);
  EXPECT_EQ(json["layers"][1]["rows"], 50);
  EXPECT_EQ(json["layers"][1]["load"], (std::vector<int64_t>{32, 0, 2, 16}));
  EXPECT_EQ(json["layers"][0]["utilisation"], 1);
}

}  // namespace
}  // namespace sluice
