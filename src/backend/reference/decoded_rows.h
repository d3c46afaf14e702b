// Rows of keys or values as numbers: in place if they are of the backend's real type, else decoded.
#pragma once

#include <vector>

#include "ops/key_rows_numerics.h"
#include "tensor/tensor.h"

namespace sluice::reference {

template <class Real>
class DecodedRows {
 public:
  explicit DecodedRows(const KeyRows& rows) : DecodedRows(rows, 0, rows.num_rows) {}
  // Of rows [begin, end) only.
  DecodedRows(const KeyRows& rows, int64_t begin, int64_t end) : rows_(rows), begin_(begin) {
    if (rows.dtype() == DTypeOf<Real>::kValue) return;
    const int64_t heads = rows.dim(1), size = rows.dim(2);
    std::vector<float> x(size);
    for (int64_t s = begin; s < end; ++s) {
      for (int64_t head = 0; head < heads; ++head) {
        DecodeKeyRow(rows, s, head, x.data());
        for (const float value : x) values_.push_back(Real{value});
      }
    }
  }
  // [kv_heads, head_size]
  const Real* row(int64_t s) const {
    if (rows_.dtype() == DTypeOf<Real>::kValue) return rows_.row<Real>(s);
    return values_.data() + (s - begin_) * rows_.dim(1) * rows_.dim(2);
  }

 private:
  KeyRows rows_;
  int64_t begin_;
  std::vector<Real> values_;
};

}  // namespace sluice::reference
