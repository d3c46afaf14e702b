// Rows of keys and values in their formats (ops/key_rows.h).
#include <bit>

#include "backend/cpu/cpu_ops.h"
#include "base/threads.h"

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/key_rows.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
#include "backend/cpu/head_kernels-inl.h"
#include "backend/cpu/key_rows-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// out rows [begin, end).
void LoadRows(const LoadKeyRowsArgs& args, int64_t begin, int64_t end) {
  const int64_t heads = args.out.dim(1), size = args.out.dim(2);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t s = args.first_row + i;
    float* out = args.out.row<float>(i);
    if (args.rows.dtype() == DType::kF32) {
      std::copy_n(args.rows.row<float>(s), heads * size, out);
      continue;
    }
    for (int64_t head = 0; head < heads; ++head) WidenRow(args.rows, s, head, out + head * size);
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(LoadRows);

constexpr int64_t kRowsPerTask = 256;

void CpuOps::StoreKeyRows(const StoreKeyRowsArgs& args) {
  const int64_t heads = args.x.dim(1), size = args.x.dim(2);
  ParallelForRange(args.x.dim(0), kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t s = args.first_row + i;
      const float* x = args.x.row<float>(i);
      if (args.rows.dtype() == DType::kF32) {
        std::copy_n(x, heads * size, args.rows.row<float>(s));
        continue;
      }
      for (int64_t head = 0; head < heads; ++head) EncodeKeyRow(x + head * size, args.rows, s, head);
    }
  });
}

void CpuOps::LoadKeyRows(const LoadKeyRowsArgs& args) {
  ParallelForRange(args.out.dim(0), kRowsPerTask, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(LoadRows)(args, begin, end);
  });
}

}  // namespace sluice
#endif  // HWY_ONCE
