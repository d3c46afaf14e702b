// Choosing a target overrides what Highway's dispatch tables read.
#include "backend/cpu/targets.h"

#include <hwy/highway.h>

#include <atomic>

#include "base/error.h"

namespace sluice {
namespace {

// Lower bits are better targets.
std::vector<int64_t> TargetBits() {
  hwy::SetSupportedTargetsForTest(0);
  return hwy::SupportedAndGeneratedTargets();
}

// What may be used now. Asking Highway costs a CPUID instruction, microseconds in a virtual machine.
std::atomic<int64_t> targets_in_use{0};  // 0: not asked yet.

}  // namespace

bool UsesAvx512() {
  int64_t targets = targets_in_use.load(std::memory_order_relaxed);
  if (targets == 0) targets_in_use = targets = hwy::SupportedTargets();
  return (targets & HWY_AVX3) != 0;
}

std::vector<std::string> CpuTargets() {
  std::vector<std::string> names;
  for (const int64_t bit : TargetBits()) names.emplace_back(hwy::TargetName(bit));
  return names;
}

void UseCpuTarget(std::string_view target) {
  std::string known;
  for (const int64_t bit : TargetBits()) {
    known += fmt::format("{}{}", known.empty() ? "" : ", ", hwy::TargetName(bit));
    if (target != hwy::TargetName(bit)) continue;
    hwy::SetSupportedTargetsForTest(bit);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    targets_in_use = bit;
    return;
  }
  if (!target.empty()) throw InputError("this machine has no target {}; it has {}", target, known);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  targets_in_use = hwy::SupportedTargets();
}

}  // namespace sluice
