// Choosing a target of the kernels.
#include "backend/cpu/targets.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace sluice {
namespace {

TEST(CpuTargets, EveryOneOfThemCanBeChosen) {
  const std::vector<std::string> targets = CpuTargets();
  ASSERT_FALSE(targets.empty());
  for (const std::string& target : targets) {
    UseCpuTarget(target);
    EXPECT_EQ(CpuTargets(), targets);
  }
  UseCpuTarget("");
  EXPECT_EQ(CpuTargets(), targets);
}

TEST(CpuTargets, UnknownNamesAreAnError) {
  EXPECT_THROW(UseCpuTarget("abacus"), InputError);
}

}  // namespace
}  // namespace sluice
