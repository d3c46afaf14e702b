// Backends by name.
#pragma once

#include <memory>
#include <string_view>

#include "ops/ops.h"

namespace sluice {

// "cpu" (float32), "reference" (float64) or "reference-tracked" (Tracked), behind CheckedOps.
// Throws InputError, with the list, for any other name.
std::unique_ptr<Ops> MakeOps(std::string_view name);

}  // namespace sluice
