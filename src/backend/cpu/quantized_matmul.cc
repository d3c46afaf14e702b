// Products with quantised matrices: all rows of x are rounded first. Matrices in bfloat16 go through the
// float32 products.
#include "ops/quantized_matmul.h"

#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/products.h"
#include "backend/cpu/quantized_products.h"
#include "base/threads.h"

namespace sluice {
namespace {

constexpr int64_t kEmbeddingsPerTask = 256;

struct Activations;

QuantizedRows RoundRows(const TensorView& x) {
  const QuantizedRows rows = ScratchRows<Activations>(x.dim(0), x.dim(1));
  QuantizeAll(x, rows);
  return rows;
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
  RunQuantizedProducts({{RoundRows(args.x), args.w, 0, 0, rows, args.y}});
}

void CpuOps::GroupedQuantizedMatMul(const GroupedQuantizedMatMulArgs& args) {
  const int32_t* offsets = args.offsets.data<int32_t>();
  const int64_t experts = args.w.num_experts;
  if (!HasBlocks(args.w.format)) {
    std::vector<Product> products;
    for (int64_t e = 0; e < experts; ++e) {
      products.push_back(BF16Product(args.x, args.w, e, offsets[e], offsets[e + 1], args.y));
    }
    return RunProducts(products);
  }
  const QuantizedRows x = RoundRows(args.x.Rows(0, offsets[experts]));
  std::vector<QuantizedProduct> products;
  for (int64_t e = 0; e < experts; ++e) {
    products.push_back({x, args.w, e, offsets[e], offsets[e + 1], args.y});
  }
  RunQuantizedProducts(products);
}

void CpuOps::QuantizedEmbedding(const QuantizedEmbeddingArgs& args) {
  const int32_t* tokens = args.tokens.data<int32_t>();
  ParallelForRange(args.tokens.dim(0), kEmbeddingsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      args.table.ReadRow(0, tokens[t], args.out.row<float>(t));
    }
  });
}

}  // namespace sluice
