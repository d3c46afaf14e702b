// Choosing a target overrides what Highway's dispatch tables read.
#include "backend/cpu/targets.h"

#include <hwy/highway.h>

#include "base/error.h"

namespace sluice {
namespace {

// Lower bits are better targets.
std::vector<int64_t> TargetBits() {
  hwy::SetSupportedTargetsForTest(0);
  return hwy::SupportedAndGeneratedTargets();
}

}  // namespace

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
    return;
  }
  if (!target.empty()) throw InputError("this machine has no target {}; it has {}", target, known);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace sluice
