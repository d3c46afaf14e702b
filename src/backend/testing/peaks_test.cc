// The loops that measure the machine do what they say, on every target.
#include "backend/cpu/peaks.h"

#include <gtest/gtest.h>

#include <vector>

#include "backend/cpu/targets.h"

namespace sluice {
namespace {

TEST(PeaksTest, WordsAreSummedWhereverTheyBeginAndEnd) {
  std::vector<uint64_t> words(200);
  for (size_t i = 0; i < words.size(); ++i) words[i] = (i * i) << 40 | i;
  for (const std::string& target : CpuTargets()) {
    UseCpuTarget(target);
    for (const int64_t begin : {0, 1, 3}) {
      uint64_t sum = 0;
      for (int64_t count = 0; begin + count < 200; ++count) {
        ASSERT_EQ(ReadWords(words.data() + begin, count), sum) << target << " " << begin << " " << count;
        sum += words[static_cast<size_t>(begin + count)];
      }
    }
  }
  UseCpuTarget("");
}

TEST(PeaksTest, OperationsGrowWithTheSteps) {
  for (const std::string& target : CpuTargets()) {
    UseCpuTarget(target);
    EXPECT_GT(RunFloatPeak(1), 0) << target;
    EXPECT_EQ(RunFloatPeak(50), 50 * RunFloatPeak(1)) << target;
    EXPECT_GT(RunBFloat16Peak(1), 0) << target;
    EXPECT_EQ(RunBFloat16Peak(50), 50 * RunBFloat16Peak(1)) << target;
    EXPECT_GT(RunInt8Peak(1), 0) << target;
    EXPECT_EQ(RunInt8Peak(50), 50 * RunInt8Peak(1)) << target;
  }
  UseCpuTarget("");
}

}  // namespace
}  // namespace sluice
