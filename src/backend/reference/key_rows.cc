// Rows of keys and values in their formats (ops/key_rows.h).
#include "backend/reference/decoded_rows.h"
#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"

namespace sluice {

template <class Real>
void ReferenceOps<Real>::StoreKeyRows(const StoreKeyRowsArgs& args) {
  const int64_t heads = args.x.dim(1), size = args.x.dim(2);
  for (int64_t i = 0; i < args.x.dim(0); ++i) {
    const int64_t s = args.first_row + i;
    const Real* x = args.x.row<Real>(i);
    if (args.rows.dtype() == dtype()) {
      std::copy_n(x, heads * size, args.rows.template row<Real>(s));
      continue;
    }
    const std::vector<float> floats = reference::ToFloats(x, heads * size);
    for (int64_t head = 0; head < heads; ++head)
      EncodeKeyRow(floats.data() + head * size, args.rows, s, head);
  }
}

template <class Real>
void ReferenceOps<Real>::LoadKeyRows(const LoadKeyRowsArgs& args) {
  const reference::DecodedRows<Real> rows(args.rows, args.first_row, args.first_row + args.out.dim(0));
  for (int64_t i = 0; i < args.out.dim(0); ++i)
    std::copy_n(rows.row(args.first_row + i), args.out.dim(1) * args.out.dim(2), args.out.row<Real>(i));
}

template void ReferenceOps<double>::StoreKeyRows(const StoreKeyRowsArgs&);
template void ReferenceOps<Tracked>::StoreKeyRows(const StoreKeyRowsArgs&);
template void ReferenceOps<double>::LoadKeyRows(const LoadKeyRowsArgs&);
template void ReferenceOps<Tracked>::LoadKeyRows(const LoadKeyRowsArgs&);

}  // namespace sluice
