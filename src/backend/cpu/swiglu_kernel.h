// SwiGLU on rows in one thread, for kernels that have it inside.
#pragma once

#include <cstdint>

namespace sluice {

// out[r, j] = silu(gate[r, j]) · up[r, j] for `rows` rows of `size` values; `out` may be `gate`.
void SwiGluRows(const float* gate, const float* up, int64_t stride, int64_t rows, int64_t size, float* out,
                int64_t out_stride);

}  // namespace sluice
