// Counted work against counting by hand; times only as far as any machine has them.
#include "eval/attention_cost.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/testing.h"
#include "eval/pass_figures.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

class AttentionCostTest : public ::testing::Test {
 protected:
  AttentionCostTest() {
    options_.methods = AttentionMethodNames();
    options_.lengths = {20, 150, 2100};
  }
  const AttentionCostRow& Row(const std::vector<AttentionCostRow>& rows, const std::string& method,
                              int64_t length) {
    for (const AttentionCostRow& row : rows) {
      if (row.method == method && row.length == length) return row;
    }
    throw InputError("no row {} {}", method, length);
  }

  ModelConfig config_ = testing::TinyConfig();
  AttentionCostOptions options_;
};

TEST_F(AttentionCostTest, CountsWhatAModelDoes) {
  const std::vector<AttentionCostRow> rows = MeasureAttention(config_, options_);
  ASSERT_EQ(rows.size(), options_.methods.size() * 3);
  for (const AttentionCostRow& row : rows) {
    EXPECT_GT(row.query_seconds, 0) << row.method;
    EXPECT_GT(row.prefill_seconds, 0);
    EXPECT_FALSE(row.prefill_estimated);
    EXPECT_GT(row.model_flops, row.prefill.total());
  }
  const auto engine = testing::TinyEngine();
  for (const int64_t length : options_.lengths) {
    Session session(*engine);
    PassFigures figures(config_);
    session.Observe(&figures);
    session.Sync(testing::RandomTokens(length, 1));
    const AttentionCost cost = figures.Cost();
    EXPECT_EQ(Row(rows, "dense", length).prefill.total(), cost.full_flops);
    EXPECT_EQ(Row(rows, "flat", length).prefill.floats, cost.attention_flops);
    EXPECT_EQ(Row(rows, "flat", length).prefill.int8, cost.gate_scan_flops);
    // No group of the tree is full.
    EXPECT_EQ(Row(rows, "tree", length).prefill.total(), Row(rows, "flat", length).prefill.total());
  }
  // One query of 150 keys in three layers, and two gates' scans of the 123 far ones.
  EXPECT_EQ(Row(rows, "dense", 150).query.total(), 3 * 150 * 4 * 4 * 8);
  EXPECT_EQ(Row(rows, "flat", 150).query.int8, 2 * 123 * 2 * 2 * 8);
}

// At least the selection, at most all keys; and the bound of every key: of four stages and two products more,
// against two products of 8 channels.
TEST_F(AttentionCostTest, AGuaranteeReadsWhatItMust) {
  const std::vector<AttentionCostRow> rows = MeasureAttention(config_, options_);
  for (const int64_t length : options_.lengths) {
    const double bounds = 3 * 4 * 4 * 8 * static_cast<double>(length) * (4 + 2) / (2 * 8);
    const double floats = Row(rows, "guarantee", length).query.floats;
    EXPECT_GE(floats, Row(rows, "flat", length).query.floats);
    EXPECT_LE(floats, Row(rows, "dense", length).query.floats + bounds + 1e-6);
    EXPECT_EQ(Row(rows, "guarantee", length).query.int8, Row(rows, "flat", length).query.int8);
  }
}

TEST_F(AttentionCostTest, WithAndWithoutTheGatesBias) {
  options_.lengths = {300};
  for (const bool bias : {false, true}) {
    config_.gate.bias = bias;
    for (const AttentionCostRow& row : MeasureAttention(config_, options_)) EXPECT_GT(row.prefill_seconds, 0);
  }
}

// Behind 100,000 keys: three groups' 384 nodes are all kept, their 6,144 leaves scored, 1,024 leaves' keys
// and those of no group.
TEST_F(AttentionCostTest, TheTreesSearchIsCounted) {
  options_.methods = {"flat", "tree"};
  options_.lengths = {100024};
  options_.prefill_seconds = 0;
  const std::vector<AttentionCostRow> rows = MeasureAttention(config_, options_);
  const double per_key = 2 * 2 * 2 * 8;  // Two gates, two heads of eight channels, multiply and add.
  EXPECT_EQ(rows[0].query.int8, per_key * (100000 - 3));
  EXPECT_EQ(rows[1].query.int8, per_key * (6144 + 16 * 1024 + 100000 - 3 * 32768));
  EXPECT_EQ(rows[0].query.floats, rows[1].query.floats);
}

TEST_F(AttentionCostTest, LongPrefillsAreEstimatedAndMarked) {
  options_.methods = {"flat"};
  options_.prefill_seconds = 0;
  int64_t last = 0;
  const std::vector<AttentionCostRow> rows =
      MeasureAttention(config_, options_, [&](int64_t done, int64_t total) {
        EXPECT_GE(done, last);
        EXPECT_EQ(total, 20 + 150 + 2100);
        last = done;
      });
  EXPECT_EQ(last, 20 + 150 + 2100);
  for (const AttentionCostRow& row : rows) {
    EXPECT_TRUE(row.prefill_estimated);
    EXPECT_GT(row.prefill_seconds, 0);
  }
  EXPECT_THAT(AttentionCostTable(rows), HasSubstr("~"));
  EXPECT_THAT(AttentionCostCsv(rows), HasSubstr("flat,2100,"));
  EXPECT_EQ(AttentionCostJson(rows, 12)["rows"][2]["prefill_estimated"], true);
  const std::vector<LinePlot> plots = AttentionCostPlots(rows);
  ASSERT_EQ(plots.size(), 3u);
  EXPECT_EQ(plots[0].series.size(), 1u);
  EXPECT_EQ(plots[0].series[0].x, (std::vector<double>{20, 150, 2100}));
}

TEST_F(AttentionCostTest, WhatCannotBeMeasuredIsRefused) {
  options_.methods = {"sparse"};
  EXPECT_THROW(MeasureAttention(config_, options_), InputError);
  options_.methods = {};
  EXPECT_THROW(MeasureAttention(config_, options_), InputError);
  options_.methods = {"flat"};
  options_.lengths = {1};
  EXPECT_THROW(MeasureAttention(config_, options_), InputError);
  options_.lengths = {int64_t{1} << 25};
  EXPECT_THROW(MeasureAttention(config_, options_), InputError);
  options_.lengths = {100};
  options_.top_k = -1;
  EXPECT_THROW(MeasureAttention(config_, options_), InputError);
}

}  // namespace
}  // namespace sluice
