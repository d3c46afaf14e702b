// Two passes over fixed tasks: pack the panels of w, then multiply tiles of rows × columns. Products of
// few rows, and those that sum over rows (dw), pack inside their own tasks instead.
#include "backend/cpu/products.h"

#include <algorithm>

#include "backend/cpu/scratch.h"
#include "base/threads.h"
#include "ops/quantized_matrix.h"

namespace sluice {
namespace {

// Products of at most this many rows pack each panel where it is used instead of all panels first.
constexpr int64_t kFewRows = 48;
// Columns of a task: 256 columns of depth 256 are 256 KiB of panels, at home in the second-level cache.
constexpr int64_t kColumnsPerTask = 256;
constexpr int64_t kColumnsPerTaskFewRows = 64;
// Rows of a task, in register tiles.
constexpr int64_t kTilesPerTask = 4;
// Products that sum over rows (x transposed, deep) are cut into fewer tasks: each packs all its columns
// of w for itself, a depth block at a time into memory that stays in the second-level cache.
constexpr int64_t kTilesPerDeepTask = 10;

struct SharedPanels;
struct LocalPanels;

struct ProductTask {
  int32_t product_idx;
  bool packs;  // Packs its own columns, rather than reading the shared panels.
  int64_t r_begin, r_end;
  int64_t n_begin, n_end;
};

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Packs and multiplies a task's columns one depth block at a time.
void RunPackingTask(const Product& product, const ProductTask& task, const ProductTile& tile) {
  const int64_t padded_columns = RoundUp(task.n_end - task.n_begin, tile.panel_columns);
  float* packed = ThreadScratch<LocalPanels>(padded_columns * kProductDepth);
  for (int64_t k = 0; k < product.in; k += kProductDepth) {
    Product block = product;
    block.x += k * (product.x_transposed ? product.x_stride : 1);
    if (product.w_panels != nullptr) {
      block.w_panels += k * QuantizedMatrix::kPanel;
    } else {
      block.w += k * (product.w_transposed ? product.w_stride : 1);
    }
    block.in = std::min(kProductDepth, product.in - k);
    block.accumulates = product.accumulates || k > 0;
    PackProductPanels(block, task.n_begin, task.n_end, packed);
    MultiplyPacked(block, task.r_begin, task.r_end, task.n_begin, task.n_end, packed);
  }
}

// `panels` is where the product's shared panels begin; unused if the task packs its own.
void RunTask(const Product& product, const ProductTask& task, const float* panels, const ProductTile& tile) {
  if (product.rows == 1 && !product.x_transposed && !product.w_transposed && !product.accumulates) {
    MultiplyOneRow(product, task.n_begin, task.n_end);
  } else if (task.packs) {
    RunPackingTask(product, task, tile);
  } else {
    MultiplyPacked(product, task.r_begin, task.r_end, task.n_begin, task.n_end,
                   panels + task.n_begin * product.in);
  }
}

}  // namespace

void RunProducts(const std::vector<Product>& products) {
  const ProductTile tile = GetProductTile();
  std::vector<ProductTask> tasks;
  std::vector<ProductTask> packs;
  std::vector<int64_t> panel_offset(products.size(), 0);
  int64_t num_packed = 0;
  for (size_t i = 0; i < products.size(); ++i) {
    const Product& p = products[i];
    if (p.rows == 0) continue;
    const bool few = p.rows <= kFewRows;
    const bool packs_itself = few || p.x_transposed;
    const int64_t columns = few ? kColumnsPerTaskFewRows : kColumnsPerTask;
    const int64_t tiles = p.x_transposed ? kTilesPerDeepTask : kTilesPerTask;
    const int64_t rows = few ? p.rows : tiles * tile.tile_rows;
    for (int64_t n = 0; n < p.out; n += columns) {
      const int64_t n_end = std::min(p.out, n + columns);
      if (!packs_itself) packs.push_back({static_cast<int32_t>(i), false, 0, 0, n, n_end});
      for (int64_t r = 0; r < p.rows; r += rows) {
        tasks.push_back({static_cast<int32_t>(i), packs_itself, r, std::min(p.rows, r + rows), n, n_end});
      }
    }
    if (packs_itself) continue;
    panel_offset[i] = num_packed;
    num_packed += RoundUp(p.out, tile.panel_columns) * p.in;
  }
  float* panels = ThreadScratch<SharedPanels>(num_packed);
  ParallelFor(static_cast<int64_t>(packs.size()), [&](int64_t task_idx) {
    const ProductTask& task = packs[static_cast<size_t>(task_idx)];
    const auto i = static_cast<size_t>(task.product_idx);
    PackProductPanels(products[i], task.n_begin, task.n_end,
                      panels + panel_offset[i] + task.n_begin * products[i].in);
  });
  ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t task_idx) {
    const ProductTask& task = tasks[static_cast<size_t>(task_idx)];
    const auto i = static_cast<size_t>(task.product_idx);
    RunTask(products[i], task, task.packs ? nullptr : panels + panel_offset[i], tile);
  });
}

}  // namespace sluice
