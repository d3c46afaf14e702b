// Products with quantised matrices: all rows of x are rounded first, then tiles of rows × columns run as
// tasks whose cut depends on the shapes alone.
#include "ops/quantized_matmul.h"

#include <algorithm>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/quantized_kernel.h"
#include "backend/cpu/scratch.h"
#include "base/threads.h"
#include "ops/quantized_numerics.h"

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
struct ActivationSums;

// Rounds rows [0, count) of x into this thread's scratch.
QuantizedRows RoundRows(const TensorView& x, int64_t count) {
  const int64_t in = x.dim(1), blocks = in / kBlock;
  QuantizedRows rows;
  rows.in = in;
  rows.codes = reinterpret_cast<int8_t*>(ThreadScratch<ActivationCodes>(count * in / 4));
  rows.scales = ThreadScratch<ActivationScales>(count * blocks);
  rows.code_sums = reinterpret_cast<int32_t*>(ThreadScratch<ActivationSums>(count * blocks));
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
  const int64_t columns = std::max<int64_t>(2, kBytesPerTask / (w.in * kPanel)) * kPanel;
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
    QuantizedProduct product;
    product.x = x;
    product.w_codes = w.PanelCodes(task.expert, 0);
    product.w_scales = w.PanelScales(task.expert, 0);
    product.y = y.data<float>();
    product.y_stride = y.row_stride();
    product.out = w.out;
    MultiplyQuantized(product, task.r_begin, task.r_end, task.n_begin, task.n_end);
  });
}

}  // namespace

void CpuOps::QuantizedMatMul(const QuantizedMatMulArgs& args) {
  std::vector<Task> tasks;
  AddTasks(args.w, 0, 0, args.x.dim(0), tasks);
  RunTasks(args.w, RoundRows(args.x, args.x.dim(0)), args.y, tasks);
}

void CpuOps::GroupedQuantizedMatMul(const GroupedQuantizedMatMulArgs& args) {
  const int32_t* offsets = args.offsets.data<int32_t>();
  std::vector<Task> tasks;
  for (int64_t e = 0; e < args.w.num_experts; ++e) AddTasks(args.w, e, offsets[e], offsets[e + 1], tasks);
  RunTasks(args.w, RoundRows(args.x, offsets[args.w.num_experts]), args.y, tasks);
}

void CpuOps::QuantizedEmbedding(const QuantizedEmbeddingArgs& args) {
  const int32_t* tokens = args.tokens.data<int32_t>();
  ParallelForRange(args.tokens.dim(0), kEmbeddingsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* out = args.out.row<float>(t);
      for (int64_t b = 0; b < args.table.num_blocks(); ++b) {
        const float scale = args.table.Scale(0, tokens[t], b);
        for (int64_t k = b * kBlock; k < (b + 1) * kBlock; ++k) {
          out[k] = scale * static_cast<float>(args.table.Code(0, tokens[t], k));
        }
      }
    }
  });
}

}  // namespace sluice
