// One head's keys or values in bfloat16, where they lie.
#pragma once

#include <hwy/base.h>

#include <cstdint>

#include "ops/key_rows.h"

namespace sluice::bfloat16 {

struct HeadRows {
  const uint16_t* base;
  int64_t stride;  // Of a row.
  int64_t channels;
  PageMap map;

  HeadRows(const KeyRows& rows, int64_t kv_head)
      : base(static_cast<const uint16_t*>(rows.rows.raw()) + kv_head * rows.dim(2)),
        stride(rows.rows.row_stride()),
        channels(rows.dim(2)),
        map(rows.map) {}

  HWY_INLINE const uint16_t* operator()(int64_t key) const { return base + map.Slot(key) * stride; }
  // Always inlined, as the next: GCC drops calls of a function that does nothing but prefetch.
  HWY_INLINE void Fetch(int64_t key) const { FetchRow((*this)(key)); }
  HWY_INLINE void FetchRow(const uint16_t* row) const {
    for (int64_t c = 0; c < channels; c += 32) __builtin_prefetch(row + c, 0, 2);
  }
};

}  // namespace sluice::bfloat16
