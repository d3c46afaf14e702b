// Matrix products. Forward: our own kernel (matmul_kernel.h), whose rows do not influence each other's
// bits. Gradients: OpenBLAS, one single-threaded call per task. Tasks are cut by shape alone:
// forward and dx by rows (and columns), dw by its own output rows, each summing over all rows of dy.
#include "ops/matmul.h"

#include <cblas.h>

#include <algorithm>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/matmul_kernel.h"
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
constexpr int64_t kTilesPerTask = 8;
// Output rows of one OpenBLAS call.
constexpr int64_t kGradRowsPerTask = 256;
constexpr int64_t kGradWeightRowsPerTask = 64;

struct SharedPanels;
struct LocalPanels;

struct ForwardTask {
  int32_t product_idx;
  bool packs;  // Packs its own columns (few rows), rather than reading the shared panels.
  int64_t r_begin, r_end;
  int64_t n_begin, n_end;
};

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

void RunForwardTask(const Product& product, const ForwardTask& task, const float* panels,
                    const ProductTile& tile) {
  if (product.rows == 1) return MultiplyOneRow(product, task.n_begin, task.n_end);
  const float* packed = panels + task.n_begin * product.in;
  if (task.packs) {
    float* local =
        ThreadScratch<LocalPanels>(RoundUp(task.n_end - task.n_begin, tile.panel_columns) * product.in);
    PackProductPanels(product, task.n_begin, task.n_end, local);
    packed = local;
  }
  MultiplyPacked(product, task.r_begin, task.r_end, task.n_begin, task.n_end, packed);
}

// Computes every product; their outputs must not overlap.
void RunProducts(const std::vector<Product>& products) {
  const ProductTile tile = GetProductTile();
  std::vector<ForwardTask> tasks;
  std::vector<ForwardTask> packs;
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
    const ForwardTask& task = packs[static_cast<size_t>(task_idx)];
    const auto i = static_cast<size_t>(task.product_idx);
    PackProductPanels(products[i], task.n_begin, task.n_end,
                      panels + panel_offset[i] + task.n_begin * products[i].in);
  });
  ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t task_idx) {
    const ForwardTask& task = tasks[static_cast<size_t>(task_idx)];
    const auto i = static_cast<size_t>(task.product_idx);
    RunForwardTask(products[i], task, panels + panel_offset[i], tile);
  });
}

void ZeroRows(const TensorView& y, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) std::fill_n(y.row<float>(r), y.dim(1), 0.0f);
}

// One weight matrix's share of a gradient: rows of x, dy and dx, and where they lie.
struct GradProduct {
  const float* x;
  const float* w;
  const float* dy;
  float* dx;      // Null: not wanted.
  float* dw_acc;  // Null: not wanted.
  int64_t rows, out, in;
  int64_t x_stride, w_stride, dy_stride, dx_stride, dw_stride;
};

struct GradTask {
  size_t product_idx;
  bool weights;  // A part of dw rather than of dx.
  int64_t begin, end;
};

void RunGradTask(const GradProduct& p, const GradTask& task) {
  const int64_t count = task.end - task.begin;
  const auto i32 = [](int64_t value) { return static_cast<blasint>(value); };
  if (task.weights) {
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, i32(count), i32(p.in), i32(p.rows), 1.0f,
                p.dy + task.begin, i32(p.dy_stride), p.x, i32(p.x_stride), 1.0f,
                p.dw_acc + task.begin * p.dw_stride, i32(p.dw_stride));
  } else {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, i32(count), i32(p.in), i32(p.out), 1.0f,
                p.dy + task.begin * p.dy_stride, i32(p.dy_stride), p.w, i32(p.w_stride), 0.0f,
                p.dx + task.begin * p.dx_stride, i32(p.dx_stride));
  }
}

void RunGradProducts(const std::vector<GradProduct>& products) {
  std::vector<GradTask> tasks;
  for (size_t i = 0; i < products.size(); ++i) {
    const GradProduct& p = products[i];
    if (p.rows == 0 || p.in == 0) continue;
    if (p.dw_acc != nullptr) {
      for (int64_t n = 0; n < p.out; n += kGradWeightRowsPerTask) {
        tasks.push_back({i, true, n, std::min(p.out, n + kGradWeightRowsPerTask)});
      }
    }
    if (p.dx != nullptr) {
      for (int64_t r = 0; r < p.rows; r += kGradRowsPerTask) {
        tasks.push_back({i, false, r, std::min(p.rows, r + kGradRowsPerTask)});
      }
    }
  }
  ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t task_idx) {
    const GradTask& task = tasks[static_cast<size_t>(task_idx)];
    RunGradTask(products[task.product_idx], task);
  });
}

// A leading dimension that BLAS accepts: one-row views may carry any stride.
int64_t LeadingDimension(const TensorView& view) {
  return std::max({int64_t{1}, view.row_stride(), view.dim(view.rank() - 1)});
}

GradProduct MakeGradProduct(const TensorView& x, const TensorView& w, const TensorView& dy,
                            const TensorView& dx, const TensorView& dw_acc) {
  GradProduct p{};
  p.x = x.data<float>();
  p.w = w.data<float>();
  p.dy = dy.data<float>();
  p.dx = dx.present() ? dx.data<float>() : nullptr;
  p.dw_acc = dw_acc.present() ? dw_acc.data<float>() : nullptr;
  p.rows = x.dim(0);
  p.out = w.dim(0);
  p.in = w.dim(1);
  p.x_stride = LeadingDimension(x);
  p.w_stride = LeadingDimension(w);
  p.dy_stride = LeadingDimension(dy);
  p.dx_stride = dx.present() ? LeadingDimension(dx) : 1;
  p.dw_stride = dw_acc.present() ? LeadingDimension(dw_acc) : 1;
  return p;
}

}  // namespace

void CpuOps::MatMul(const MatMulArgs& args) {
  if (args.w.dim(1) == 0) return ZeroRows(args.y, args.y.dim(0));
  RunProducts({{args.x.data<float>(), args.x.row_stride(), args.w.data<float>(), args.w.row_stride(),
                args.y.data<float>(), args.y.row_stride(), args.x.dim(0), args.w.dim(0), args.w.dim(1)}});
}

void CpuOps::MatMulGrad(const MatMulGradArgs& args) {
  if (args.dx.present() && args.w.dim(0) == 0) ZeroRows(args.dx, args.dx.dim(0));
  if (args.w.dim(0) == 0) return;
  RunGradProducts({MakeGradProduct(args.x, args.w, args.dy, args.dx, args.dw_acc)});
}

void CpuOps::GroupedMatMul(const GroupedMatMulArgs& args) {
  const int64_t num_experts = args.w.dim(0);
  const int32_t* offsets = args.offsets.data<int32_t>();
  if (args.w.dim(2) == 0) return ZeroRows(args.y, offsets[num_experts]);
  std::vector<Product> products;
  for (int64_t e = 0; e < num_experts; ++e) {
    products.push_back({args.x.row<float>(offsets[e]), args.x.row_stride(), args.w.row<float>(e),
                        args.w.dim(2), args.y.row<float>(offsets[e]), args.y.row_stride(),
                        offsets[e + 1] - offsets[e], args.w.dim(1), args.w.dim(2)});
  }
  RunProducts(products);
}

void CpuOps::GroupedMatMulGrad(const GroupedMatMulGradArgs& args) {
  const int64_t num_experts = args.w.dim(0);
  const int32_t* offsets = args.offsets.data<int32_t>();
  if (args.dx.present() && args.w.dim(1) == 0) ZeroRows(args.dx, offsets[num_experts]);
  if (args.w.dim(1) == 0) return;
  std::vector<GradProduct> products;
  for (int64_t e = 0; e < num_experts; ++e) {
    const auto rows = [&](const TensorView& view) {
      return view.present() ? view.Rows(offsets[e], offsets[e + 1]) : TensorView();
    };
    products.push_back(MakeGradProduct(rows(args.x), args.w.At(e), rows(args.dy), rows(args.dx),
                                       args.dw_acc.present() ? args.dw_acc.At(e) : TensorView()));
  }
  RunGradProducts(products);
}

}  // namespace sluice
