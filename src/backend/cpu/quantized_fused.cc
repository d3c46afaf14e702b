// Fused steps of quantised inference passes. Rows are rounded while they are in the first-level cache; the
// values between gate-up and down products exist as floats for one block of one task alone.
#include "ops/quantized_fused.h"

#include <algorithm>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/quantized_products.h"
#include "backend/cpu/swiglu_kernel.h"
#include "base/threads.h"

namespace sluice {
namespace {

constexpr int64_t kBlock = QuantizedMatrix::kBlock;

struct NormedRows;
struct TokenRows;
struct ExpertRows;
struct ActivatedExpertRows;
struct ActivatedSharedRows;
struct GateUpValues;

constexpr int64_t kFewRows = 6;
constexpr int64_t kFewRowsColumns = 128;

void CopyRow(const QuantizedRows& from, int64_t from_row, const QuantizedRows& to, int64_t to_row) {
  const int64_t blocks = from.in / kBlock;
  std::copy_n(from.codes + from_row * from.in, from.in, to.codes + to_row * from.in);
  std::copy_n(from.scales + from_row * blocks, blocks, to.scales + to_row * blocks);
  std::copy_n(from.offsets + from_row * blocks, blocks, to.offsets + to_row * blocks);
  std::copy_n(from.sums + from_row * blocks, blocks, to.sums + to_row * blocks);
}

// Rows of one expert on their way to the rounded input of its down product.
struct GateUpTask {
  const QuantizedRows* x;
  const QuantizedMatrix* gate_up;
  int64_t expert;
  const QuantizedRows* activated;
  Rectangle part;  // Of `activated`.
};

void AddGateUpTasks(const QuantizedRows& x, const QuantizedMatrix& gate_up, int64_t expert, int64_t row_begin,
                    int64_t row_end, const QuantizedRows& activated, int64_t share,
                    std::vector<GateUpTask>& tasks) {
  const int64_t size = gate_up.out / 2;
  // Few rows wait for memory, gate and up being two streams: these are then kept long, but a task a small
  // part.
  const int64_t few_columns =
      row_end - row_begin <= kFewRows ? std::min(kFewRowsColumns, size / 4 / kBlock * kBlock) : 0;
  const int64_t columns =
      std::max(few_columns, ColumnsPerTask(gate_up, kBlock, 2 * kBlock / QuantizedMatrix::kPanel));
  ForEachTaskOfShare(size, columns, share, [&](int64_t begin, int64_t end) {
    for (int64_t r = row_begin; r < row_end; r += kRowsPerTask) {
      tasks.push_back(
          {&x, &gate_up, expert, &activated, {r, std::min(row_end, r + kRowsPerTask), begin, end}});
    }
  });
}

// As many blocks of columns at a time as fit into the first-level cache: gate and up side by side, SwiGLU
// over gate, then its codes.
void RunGateUp(const GateUpTask& task) {
  constexpr int64_t kValues = kRowsPerTask * 2 * kBlock;
  const int64_t size = task.gate_up->out / 2;
  const int64_t rows = task.part.row_end - task.part.row_begin;
  const int64_t columns = kValues / (2 * rows) / kBlock * kBlock;
  float* values = ThreadScratch<GateUpValues>(kValues);
  Rectangle gate = task.part;
  for (; gate.column_begin < task.part.column_end; gate.column_begin = gate.column_end) {
    gate.column_end = std::min(gate.column_begin + columns, task.part.column_end);
    const int64_t width = gate.column_end - gate.column_begin;
    Rectangle up = gate;
    up.column_begin += size;
    up.column_end += size;
    MultiplyQuantized(*task.x, *task.gate_up, task.expert, gate, values, 2 * width);
    MultiplyQuantized(*task.x, *task.gate_up, task.expert, up, values + width, 2 * width);
    SwiGluRows(values, values + width, 2 * width, rows, width, values, 2 * width);
    QuantizeActivations(values, 2 * width, gate, *task.activated);
  }
}

}  // namespace

void CpuOps::RmsNormMatMuls(const RmsNormMatMulsArgs& args) {
  const TensorView& x = args.norm.x;
  const TensorView& normed = args.norm.out;
  const QuantizedRows rows = ScratchRows<NormedRows>(x.dim(0), x.dim(1));
  ParallelForRange(x.dim(0), kRowsPerRounding, [&](int64_t begin, int64_t end) {
    RmsNorm({x.Rows(begin, end), args.norm.weight, args.norm.eps, normed.Rows(begin, end)});
    QuantizeActivations(normed.row<float>(begin), normed.row_stride(), {begin, end, 0, rows.in}, rows);
  });
  std::vector<QuantizedProduct> products;
  for (const auto& [w, y] : args.products) products.push_back({rows, w, 0, 0, x.dim(0), y});
  RunQuantizedProducts(products);
}

void CpuOps::QuantizedFeedForward(const QuantizedFeedForwardArgs& args) {
  const int64_t tokens = args.x.dim(0), hidden = args.x.dim(1), slots = args.token_row.dim(1);
  const int64_t experts = args.experts.gate_up.num_experts;
  const int32_t* offsets = args.offsets.data<int32_t>();
  const int64_t served = offsets[experts];
  const bool has_shared = args.shared.gate_up.present();
  const QuantizedRows token_rows = ScratchRows<TokenRows>(tokens, hidden);
  const QuantizedRows expert_rows = ScratchRows<ExpertRows>(served, hidden);
  ParallelForRange(tokens, kRowsPerRounding, [&](int64_t begin, int64_t end) {
    QuantizeActivations(args.x.row<float>(begin), args.x.row_stride(), {begin, end, 0, hidden}, token_rows);
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t slot = 0; slot < slots; ++slot) {
        const int32_t row = args.token_row.row<int32_t>(t)[slot];
        if (row >= 0) CopyRow(token_rows, t, expert_rows, row);
      }
    }
  });

  const QuantizedRows activated = ScratchRows<ActivatedExpertRows>(served, args.experts.down.in);
  QuantizedRows shared_activated;
  std::vector<GateUpTask> tasks;
  std::vector<QuantizedProduct> products;
  for (int64_t e = 0; e < experts; ++e) {
    products.push_back({activated, args.experts.down, e, offsets[e], offsets[e + 1], args.outputs});
  }
  if (has_shared) {
    shared_activated = ScratchRows<ActivatedSharedRows>(tokens, args.shared.down.in);
    products.push_back({shared_activated, args.shared.down, 0, 0, tokens, args.shared_out});
  }
  for (int64_t share = 0; share < NumThreads(); ++share) {
    for (int64_t e = 0; e < experts; ++e) {
      AddGateUpTasks(expert_rows, args.experts.gate_up, e, offsets[e], offsets[e + 1], activated, share,
                     tasks);
    }
    if (has_shared) {
      AddGateUpTasks(token_rows, args.shared.gate_up, 0, 0, tokens, shared_activated, share, tasks);
    }
  }
  ParallelFor(static_cast<int64_t>(tasks.size()),
              [&](int64_t i) { RunGateUp(tasks[static_cast<size_t>(i)]); });
  RunQuantizedProducts(products);
}

}  // namespace sluice
