// Products with quantised matrices: all rows of x are rounded first, then tiles of rows × columns run as
// tasks whose cut depends on the shapes alone. Matrices in bfloat16 go through the float32 products.
#include "ops/quantized_matmul.h"

#include <algorithm>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/products.h"
#include "backend/cpu/quantized_kernel.h"
#include "backend/cpu/scratch.h"
#include "base/threads.h"

namespace sluice {
namespace {

constexpr int64_t kBlock = QuantizedMatrix::kBlock;
constexpr int64_t kPanel = QuantizedMatrix::kPanel;
// Codes of w that a task reads: at home in the second-level cache while rows pass over them, and with one row
// still long enough to be worth a task.
constexpr int64_t kBytesPerTask = 64 << 10;
// Rows of a task: whole tiles, whose codes stay in the first-level cache at `in` = 256.
constexpr int64_t kRowsPerTask = 48;
constexpr int64_t kRowsPerRounding = 16;
constexpr int64_t kEmbeddingsPerTask = 256;

struct ActivationCodes;
struct ActivationScales;
struct ActivationOffsets;
struct ActivationSums;

// Rounds rows [0, count) of x into this thread's scratch.
QuantizedRows RoundRows(const TensorView& x, int64_t count) {
  const int64_t in = x.dim(1), blocks = in / kBlock;
  QuantizedRows rows;
  rows.in = in;
  rows.codes = reinterpret_cast<int8_t*>(ThreadScratch<ActivationCodes>(count * in / 4));
  rows.scales = ThreadScratch<ActivationScales>(count * blocks);
  rows.offsets = reinterpret_cast<int32_t*>(ThreadScratch<ActivationOffsets>(count * blocks));
  rows.sums = ThreadScratch<ActivationSums>(count * blocks);
  ParallelForRange(count, kRowsPerRounding, [&](int64_t begin, int64_t end) {
    QuantizeActivationRows(x.data<float>(), x.row_stride(), begin, end, rows);
  });
  return rows;
}

struct Task {
  int64_t expert;
  int64_t r_begin, r_end;
  int64_t n_begin, n_end;
};

// Appends the tasks of one expert's rows.
void AddTasks(const QuantizedMatrix& w, int64_t expert, int64_t r_begin, int64_t r_end,
              std::vector<Task>& tasks) {
  const int64_t panel_bytes = w.in * kPanel / (w.format == WeightFormat::kQ4 ? 2 : 1);
  const int64_t columns = std::max<int64_t>(1, kBytesPerTask / (2 * panel_bytes)) * 2 * kPanel;
  for (int64_t n = 0; n < w.out; n += columns) {
    for (int64_t r = r_begin; r < r_end; r += kRowsPerTask) {
      tasks.push_back({expert, r, std::min(r_end, r + kRowsPerTask), n, std::min(w.out, n + columns)});
    }
  }
}

void RunTasks(const QuantizedMatrix& w, const QuantizedRows& x, const TensorView& y,
              const std::vector<Task>& tasks) {
  ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    const Task& task = tasks[static_cast<size_t>(i)];
    const QuantizedProduct product = {x, w, task.expert, y.data<float>(), y.row_stride()};
    MultiplyQuantized(product, task.r_begin, task.r_end, task.n_begin, task.n_end);
  });
}

// Rows [begin, end) of x times one expert's matrix in bfloat16.
Product BF16Product(const TensorView& x, const QuantizedMatrix& w, int64_t expert, int64_t begin, int64_t end,
                    const TensorView& y) {
  Product product;
  product.x = x.row<float>(begin);
  product.x_stride = x.row_stride();
  product.w_panels = w.PanelWeights(expert, 0);
  product.w_panel_stride = w.codes.row_stride();
  product.y = y.row<float>(begin);
  product.y_stride = y.row_stride();
  product.rows = end - begin;
  product.out = w.out;
  product.in = w.in;
  return product;
}

}  // namespace

void CpuOps::QuantizedMatMul(const QuantizedMatMulArgs& args) {
  const int64_t rows = args.x.dim(0);
  if (!HasBlocks(args.w.format)) return RunProducts({BF16Product(args.x, args.w, 0, 0, rows, args.y)});
  std::vector<Task> tasks;
  AddTasks(args.w, 0, 0, rows, tasks);
  RunTasks(args.w, RoundRows(args.x, rows), args.y, tasks);
}

void CpuOps::GroupedQuantizedMatMul(const GroupedQuantizedMatMulArgs& args) {
  const int32_t* offsets = args.offsets.data<int32_t>();
  if (!HasBlocks(args.w.format)) {
    std::vector<Product> products;
    for (int64_t e = 0; e < args.w.num_experts; ++e) {
      products.push_back(BF16Product(args.x, args.w, e, offsets[e], offsets[e + 1], args.y));
    }
    return RunProducts(products);
  }
  std::vector<Task> tasks;
  for (int64_t e = 0; e < args.w.num_experts; ++e) AddTasks(args.w, e, offsets[e], offsets[e + 1], tasks);
  RunTasks(args.w, RoundRows(args.x, offsets[args.w.num_experts]), args.y, tasks);
}

void CpuOps::QuantizedEmbedding(const QuantizedEmbeddingArgs& args) {
  const int32_t* tokens = args.tokens.data<int32_t>();
  ParallelForRange(args.tokens.dim(0), kEmbeddingsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* out = args.out.row<float>(t);
      for (int64_t k = 0; k < args.table.in; ++k) out[k] = args.table.Weight(0, tokens[t], k);
    }
  });
}

}  // namespace sluice
