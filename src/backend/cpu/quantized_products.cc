#include "backend/cpu/quantized_products.h"

#include <algorithm>

#include "base/threads.h"

namespace sluice {
namespace {

constexpr int64_t kBytesPerTask = 64 << 10;

}  // namespace

int64_t ColumnsPerTask(const QuantizedMatrix& w, int64_t unit, int64_t panels_per_unit) {
  const int64_t panel_bytes = w.in * QuantizedMatrix::kPanel / (w.format == WeightFormat::kQ4 ? 2 : 1);
  return std::max<int64_t>(1, kBytesPerTask / (panels_per_unit * panel_bytes)) * unit;
}

std::vector<ProductTask> TasksOf(const std::vector<QuantizedProduct>& products) {
  std::vector<ProductTask> tasks;
  for (int64_t share = 0; share < NumThreads(); ++share) {
    for (const QuantizedProduct& product : products) {
      const int64_t columns = ColumnsPerTask(product.w, 2 * QuantizedMatrix::kPanel, 2);
      ForEachTaskOfShare(product.w.out, columns, share, [&](int64_t begin, int64_t end) {
        for (int64_t r = product.row_begin; r < product.row_end; r += kRowsPerTask) {
          tasks.push_back({&product, {r, std::min(product.row_end, r + kRowsPerTask), begin, end}});
        }
      });
    }
  }
  return tasks;
}

void RunQuantizedProducts(const std::vector<QuantizedProduct>& products) {
  const std::vector<ProductTask> tasks = TasksOf(products);
  ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    const auto& [product, part] = tasks[static_cast<size_t>(i)];
    MultiplyQuantized(product->x, product->w, product->expert, part,
                      product->y.row<float>(part.row_begin) + part.column_begin, product->y.row_stride());
  });
}

void QuantizeAll(const TensorView& x, const QuantizedRows& rows) {
  ParallelForRange(x.dim(0), kRowsPerRounding, [&](int64_t begin, int64_t end) {
    QuantizeActivations(x.row<float>(begin), x.row_stride(), {begin, end, 0, rows.in}, rows);
  });
}

}  // namespace sluice
