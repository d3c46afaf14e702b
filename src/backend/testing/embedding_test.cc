// Cases of Embedding and its gradient: copies, so every bit must be right.
#include <gtest/gtest.h>

#include "backend/testing/harness.h"

namespace sluice {
namespace {

OpCase EmbeddingCase(int64_t vocab, int64_t hidden, const std::vector<int32_t>& ids) {
  const auto tokens = static_cast<int64_t>(ids.size());
  OpCase c(fmt::format("Embedding {} tokens of {} x {}", tokens, vocab, hidden));
  c.Ints("tokens", {tokens}, ids).In("table", {vocab, hidden}).Out("out", {tokens, hidden});
  c.In("dout", {tokens, hidden}).InOut("dtable_acc", {vocab, hidden});
  c.num_rows = tokens;
  c.rows = [](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.Embedding({t["tokens"].Rows(begin, end), t["table"], t["out"].Rows(begin, end)});
  };
  c.gradient = [](Ops& ops, const Tensors& t) {
    ops.EmbeddingGrad({t["tokens"], t["dout"], t["dtable_acc"]});
  };
  c.differentiable = {"table"};
  return c;
}

TEST(Embedding, ManyTokens) {
  std::vector<int32_t> ids(500);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * i % 23);
  OpCase c = EmbeddingCase(40, 33, ids);
  c.differentiable = {};
  EXPECT_TRUE(CheckCases({c}));
}

TEST(Embedding, RepeatedAndExtremeTokens) {
  EXPECT_TRUE(CheckCases({EmbeddingCase(6, 17, {0, 5, 5, 2, 5, 0}), EmbeddingCase(1, 8, {0, 0, 0}),
                          EmbeddingCase(9, 1, {8, 7}), EmbeddingCase(4, 16, {}), EmbeddingCase(3, 64, {2})}));
}

}  // namespace
}  // namespace sluice
