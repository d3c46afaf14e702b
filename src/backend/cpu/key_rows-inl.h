// Rows of keys and values (ops/key_rows.h) as the float32 rows that the kernels of head_kernels-inl.h read:
// in place, or widened into scratch memory. Included like simd_math.h, after head_kernels-inl.h.
#if defined(SLUICE_BACKEND_CPU_KEY_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SLUICE_BACKEND_CPU_KEY_ROWS_INL_H_
#undef SLUICE_BACKEND_CPU_KEY_ROWS_INL_H_
#else
#define SLUICE_BACKEND_CPU_KEY_ROWS_INL_H_
#endif

#include "backend/cpu/head_kernels-inl.h"
#include "ops/key_rows_numerics.h"

HWY_BEFORE_NAMESPACE();
namespace sluice {
namespace HWY_NAMESPACE {

// out [size] = one head's row s; exact. REQUIRES: rows in bfloat16 or int8.
HWY_INLINE void WidenRow(const KeyRows& rows, int64_t s, int64_t kv_head, float* HWY_RESTRICT out) {
  const FloatTag d;
  const hn::Rebind<uint32_t, FloatTag> du32;
  const hn::Rebind<uint16_t, FloatTag> du16;
  const hn::Rebind<int32_t, FloatTag> di32;
  const hn::Rebind<int8_t, FloatTag> di8;
  const int64_t size = rows.dim(2);
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  if (rows.dtype() == DType::kBF16) {
    const uint16_t* bits = reinterpret_cast<const uint16_t*>(rows.raw_row(s)) + kv_head * size;
    for (; c + lanes <= size; c += lanes) {
      const auto wide = hn::PromoteTo(du32, hn::LoadU(du16, bits + c));
      hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(wide)), d, out + c);
    }
    for (; c < size; ++c) out[c] = std::bit_cast<float>(static_cast<uint32_t>(bits[c]) << 16);
    return;
  }
  const int8_t* codes = reinterpret_cast<const int8_t*>(rows.raw_row(s)) + kv_head * size;
  const float scale = FloatFromF16(rows.raw_scale(s)[kv_head]);
  for (; c + lanes <= size; c += lanes) {
    const auto wide = hn::PromoteTo(di32, hn::LoadU(di8, codes + c));
    hn::StoreU(hn::Mul(hn::Set(d, scale), hn::ConvertTo(d, wide)), d, out + c);
  }
  for (; c < size; ++c) out[c] = scale * static_cast<float>(codes[c]);
}

// One head's row s: in place, or widened into `scratch` [size].
HWY_INLINE const float* FloatRow(const KeyRows& rows, int64_t s, int64_t kv_head, float* scratch) {
  if (rows.dtype() == DType::kF32) return rows.row<float>(s) + kv_head * rows.dim(2);
  WidenRow(rows, s, kv_head, scratch);
  return scratch;
}

// One head's rows [begin, end) of one page, row `begin` first: in place, or widened into `scratch`
// [kPageRows, size].
HWY_INLINE StridedRows<const float> FloatRows(const KeyRows& rows, int64_t begin, int64_t end,
                                              int64_t kv_head, float* scratch) {
  const int64_t size = rows.dim(2);
  if (rows.dtype() == DType::kF32) return {rows.row<float>(begin) + kv_head * size, rows.rows.row_stride()};
  for (int64_t s = begin; s < end; ++s) WidenRow(rows, s, kv_head, scratch + (s - begin) * size);
  return {scratch, size};
}

}  // namespace HWY_NAMESPACE
}  // namespace sluice
HWY_AFTER_NAMESPACE();

#endif  // SLUICE_BACKEND_CPU_KEY_ROWS_INL_H_
