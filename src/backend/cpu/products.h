// Matrix products in parallel, on the kernel of matmul_kernel.h. The cut into tasks depends on the
// shapes alone, and no element's bits depend on the cut.
#pragma once

#include <vector>

#include "backend/cpu/matmul_kernel.h"

namespace sluice {

// Computes every product. REQUIRES: in > 0 for each; no output overlaps another's output or input.
void RunProducts(const std::vector<Product>& products);

}  // namespace sluice
