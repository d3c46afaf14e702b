// The instruction sets that the kernels are compiled for. The best one that the machine has is chosen
// at run time; tests run every op on each of them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// The targets that this machine can run, best first, for example {"AVX3", "AVX2", "SSE2"}.
std::vector<std::string> CpuTargets();

// Kernels run on `target` from now on; an empty name goes back to the best. REQUIRES: no op is running;
// InputError, with the list, if `target` is not one of CpuTargets().
void UseCpuTarget(std::string_view target);

// Whether kernels outside Highway's dispatch may use AVX-512, or more of it that the processor has.
bool UsesAvx512();

}  // namespace sluice
