// Two passes over fixed tasks: pack the panels of every product that has more than a few rows, then
// multiply tiles of rows × columns. Products of few rows pack inside their own task.
#include "backend/cpu/products.h"

#include <algorithm>

#include "backend/cpu/scratch.h"
#include "base/threads.h"

namespace sluice {
namespace {

// Products of at most this many rows pack each panel where it is used instead of all panels first.
constexpr int64_t kFewRows = 48;
// Columns of a task: 256 columns of depth 256 are 256 KiB of panels, at home in the second-level cache.
constexpr int64_t kColumnsPerTask = 256;
constexpr int64_t kColumnsPerTaskFewRows = 64;
// Rows of a task, in register tiles.
constexpr int64_t kTilesPerTask = 4;

struct SharedPanels;
struct LocalPanels;

struct ProductTask {
  int32_t product_idx;
  bool packs;  // Packs its own columns (few rows), rather than reading the shared panels.
  int64_t r_begin, r_end;
  int64_t n_begin, n_end;
};

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// `panels` is where the product's shared panels begin; unused if the task packs its own.
void RunTask(const Product& product, const ProductTask& task, const float* panels, const ProductTile& tile) {
  if (product.rows == 1 && !product.x_transposed && !product.w_transposed && !product.accumulates) {
    return MultiplyOneRow(product, task.n_begin, task.n_end);
  }
  const float* packed = panels;
  if (task.packs) {
    float* local =
        ThreadScratch<LocalPanels>(RoundUp(task.n_end - task.n_begin, tile.panel_columns) * product.in);
    PackProductPanels(product, task.n_begin, task.n_end, local);
    packed = local;
  } else {
    packed += task.n_begin * product.in;
  }
  MultiplyPacked(product, task.r_begin, task.r_end, task.n_begin, task.n_end, packed);
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
    const int64_t columns = few ? kColumnsPerTaskFewRows : kColumnsPerTask;
    const int64_t rows = few ? p.rows : kTilesPerTask * tile.tile_rows;
    for (int64_t n = 0; n < p.out; n += columns) {
      const int64_t n_end = std::min(p.out, n + columns);
      if (!few) packs.push_back({static_cast<int32_t>(i), false, 0, 0, n, n_end});
      for (int64_t r = 0; r < p.rows; r += rows) {
        tasks.push_back({static_cast<int32_t>(i), few, r, std::min(p.rows, r + rows), n, n_end});
      }
    }
    if (few) continue;
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
