// Attention over keys and values in bfloat16 on processors that multiply them as they are; see
// bfloat16_kernels.h. CpuOps takes it wherever it can.
#pragma once

#include <cstdint>

#include "ops/sparse_attention.h"

namespace sluice {

// Heads are a multiple of so many channels.
inline constexpr int64_t kBFloat16HeadUnit = 64;

// Whether the processor, the target in use (targets.h), the formats and the shape allow it.
bool TakesBFloat16Attention(const AttentionInputs& in);

// As CpuOps::FullAttention and SparseAttention; the latter without the outputs for distillation.
// REQUIRES: TakesBFloat16Attention(args.in).
void BFloat16FullAttention(const FullAttentionArgs& args);
void BFloat16SparseAttention(const SparseAttentionArgs& args);

}  // namespace sluice
