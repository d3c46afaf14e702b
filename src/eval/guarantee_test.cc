// The bundled model under a guarantee: with gates that are worth nothing it still answers as full attention
// does, because what the gates do not select is proved to be unimportant, or read. The gate has a say in full
// attention too (gate.bias), so that attention must have learned to find without it.
#include <gtest/gtest.h>

#include "base/file.h"
#include "eval/needle.h"

namespace sluice {
namespace {

const std::filesystem::path kSource = SLUICE_SOURCE_DIR;

Engine NanoWithZeroedGates() {
  Engine engine(kSource / "models/nano");
  const Model& model = engine.model();
  int64_t zeroed = 0;
  for (const ParameterInfo& parameter : model.table().parameters()) {
    if (parameter.kind != ParameterKind::kGate) continue;
    model.table().View(parameter, model.parameters()).Zero();
    ++zeroed;
  }
  SLUICE_CHECK(zeroed > 0);
  return engine;
}

TEST(GuaranteeNanoTest, ZeroedGatesStillAnswerAsFullAttention) {
  const Engine engine = NanoWithZeroedGates();
  const Haystack haystack(engine.tokenizer(), {ReadFile(kSource / "examples/long_document.txt")});
  NeedleOptions options;
  options.lengths = {3000};
  options.needles = 10;
  options.distractors = 1;
  options.max_answer_tokens = 40;
  options.session.attention = AttentionMode::kDense;
  const NeedleResult dense = RunNeedles(engine, haystack, options);
  options.session.attention = AttentionMode::kSparse;
  const NeedleResult sparse = RunNeedles(engine, haystack, options);
  options.session.guarantee = 0.01;
  const NeedleResult proved = RunNeedles(engine, haystack, options);

  ASSERT_TRUE(proved.guarantee.has_value());
  EXPECT_LE(proved.guarantee->largest_bound(), 0.01);
  for (size_t i = 0; i < dense.trials.size(); ++i)
    EXPECT_EQ(proved.trials[i].answer, dense.trials[i].answer) << dense.trials[i].question;
  EXPECT_GE(proved.Accuracy(3000), 0.8);
  EXPECT_LT(sparse.Accuracy(3000), proved.Accuracy(3000)) << "the gates were not worth nothing";
}

}  // namespace
}  // namespace sluice
