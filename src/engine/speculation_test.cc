// Drafts are checked where that pays, by made-up times of passes.
#include "engine/speculation.h"

#include <gtest/gtest.h>

#include "base/random.h"

namespace sluice {
namespace {

struct Outcome {
  int64_t passes = 0;
  int64_t drafted = 0;
  double seconds = 0;
};

// Writes `text` behind its first `prompt` tokens, as a model that says exactly this would.
Outcome Write(const std::vector<int32_t>& text, size_t prompt, int64_t max_draft, double pass_seconds,
              double draft_seconds) {
  Speculation speculation(max_draft);
  Outcome outcome;
  for (size_t done = prompt; done < text.size();) {
    const std::span<const int32_t> tokens = std::span(text).first(done);
    const std::vector<int32_t> draft = speculation.Draft(tokens, std::ssize(text) - std::ssize(tokens));
    EXPECT_LE(std::ssize(draft), max_draft);
    const double seconds = pass_seconds + static_cast<double>(draft.size()) * draft_seconds;
    speculation.PassDone(std::ssize(draft), seconds);
    size_t right = 0;
    while (right < draft.size() && done + right < text.size() && draft[right] == text[done + right]) ++right;
    done = std::min(done + right + 1, text.size());
    ++outcome.passes;
    outcome.drafted += std::ssize(draft);
    outcome.seconds += seconds;
  }
  return outcome;
}

// 20 tokens, again and again.
std::vector<int32_t> Loop(int64_t size) {
  std::vector<int32_t> text;
  for (int64_t i = 0; i < size; ++i) text.push_back(static_cast<int32_t>(i % 20));
  return text;
}

// Groups of four known tokens, then one that nothing foretells: after every group the lookup is wrong.
std::vector<int32_t> Surprises(int64_t size) {
  Random random(1);
  std::vector<int32_t> text;
  while (std::ssize(text) < size) {
    text.insert(text.end(), {1, 2, 3, static_cast<int32_t>(10 + random.Below(1000000))});
  }
  return text;
}

TEST(SpeculationTest, ChecksManyDraftsOfATextThatRepeats) {
  const Outcome outcome = Write(Loop(1000), 40, 8, 0.01, 0.001);
  EXPECT_LT(outcome.passes, 960 / 7);
}

TEST(SpeculationTest, ChecksNoneWhereAPassWithThemTakesTooLong) {
  const Outcome plain = Write(Loop(1000), 40, 0, 0.01, 0.02);
  EXPECT_EQ(plain.drafted, 0);
  EXPECT_EQ(plain.passes, 960);
  const Outcome outcome = Write(Loop(1000), 40, 4, 0.01, 0.02);
  EXPECT_LE(outcome.drafted, 4 * (1 + 960 / Speculation::kProbeInterval));
  EXPECT_LT(outcome.seconds, 1.15 * plain.seconds);
}

TEST(SpeculationTest, ChecksFewWhereTheyAreWrong) {
  const Outcome plain = Write(Surprises(2000), 40, 0, 0.01, 0.003);
  const Outcome outcome = Write(Surprises(2000), 40, 8, 0.01, 0.003);
  EXPECT_LT(outcome.drafted, 200);
  EXPECT_LT(outcome.seconds, 1.03 * plain.seconds);
}

TEST(SpeculationTest, FindsOutThatCheckingHasBecomeCheap) {
  Speculation speculation(4);
  std::vector<int32_t> text = Loop(60);
  int64_t checked = 0;
  for (int64_t step = 0; step < 400; ++step) {
    const std::vector<int32_t> draft = speculation.Draft(text, 4);
    const double draft_seconds = step < 100 ? 1 : 0.0001;
    speculation.PassDone(std::ssize(draft), 0.01 + static_cast<double>(draft.size()) * draft_seconds);
    if (step >= 350) checked += std::ssize(draft);
    text.push_back(static_cast<int32_t>(text.size() % 20));
  }
  EXPECT_GT(checked, 0);
}

TEST(SpeculationTest, ChecksNoMoreThanThereIsRoomFor) {
  Speculation speculation(8);
  const std::vector<int32_t> text = Loop(60);
  speculation.PassDone(0, 0.01);
  EXPECT_EQ(speculation.Draft(text, 3).size(), 3);
  EXPECT_TRUE(speculation.Draft(text, 0).empty());
}

}  // namespace
}  // namespace sluice
