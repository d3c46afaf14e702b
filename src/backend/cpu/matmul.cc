// Matrix products and their gradients, all three as products on one kernel (products.h): dx = dy (wᵀ)ᵀ
// reads w transposed, dw += dyᵀ (xᵀ)ᵀ reads both transposed and sums over the rows. Measured on Zen 4,
// one thread, processor time (bench/matmul_bench.cc): forward 1.07 times OpenBLAS at 4096 × 256 × 256,
// 0.9 times at 512 × 256 × 4096. dw whole is 0.85 to 0.97 times OpenBLAS's, but OpenBLAS called for 64
// rows of dw at a time, as threads need it, lost 20% of its own speed, more than that.
#include "ops/matmul.h"

#include <algorithm>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/products.h"

namespace sluice {
namespace {

// y = x wᵀ; the sizes are those of the views x and y.
Product MakeProduct(const TensorView& x, const TensorView& w, const TensorView& y) {
  Product p;
  p.x = x.data<float>();
  p.x_stride = x.row_stride();
  p.w = w.data<float>();
  p.w_stride = w.row_stride();
  p.y = y.data<float>();
  p.y_stride = y.row_stride();
  p.rows = x.dim(0);
  p.out = y.dim(1);
  p.in = x.dim(1);
  return p;
}

void ZeroRows(const TensorView& y) {
  for (int64_t r = 0; r < y.dim(0); ++r) std::fill_n(y.row<float>(r), y.dim(1), 0.0f);
}

// Appends the gradients of one weight matrix over its rows of x and dy; an absent dx or dw_acc is not
// wanted. dw goes first: its tasks are the longest.
void AddGradProducts(const MatMulGradArgs& args, std::vector<Product>& products) {
  if (args.dw_acc.present() && args.x.dim(0) > 0) {
    Product p = MakeProduct(args.dy, args.x, args.dw_acc);
    p.rows = args.dy.dim(1);
    p.in = args.dy.dim(0);
    p.x_transposed = p.w_transposed = p.accumulates = true;
    products.push_back(p);
  }
  if (args.dx.present() && args.dy.dim(1) > 0) {
    Product p = MakeProduct(args.dy, args.w, args.dx);
    p.w_transposed = true;
    products.push_back(p);
  } else if (args.dx.present()) {
    ZeroRows(args.dx);
  }
}

}  // namespace

void CpuOps::MatMul(const MatMulArgs& args) {
  if (args.w.dim(1) == 0) return ZeroRows(args.y);
  RunProducts({MakeProduct(args.x, args.w, args.y)});
}

void CpuOps::MatMulGrad(const MatMulGradArgs& args) {
  std::vector<Product> products;
  AddGradProducts(args, products);
  RunProducts(products);
}

void CpuOps::GroupedMatMul(const GroupedMatMulArgs& args) {
  const int64_t num_experts = args.w.dim(0);
  const int32_t* offsets = args.offsets.data<int32_t>();
  if (args.w.dim(2) == 0) return ZeroRows(args.y.Rows(0, offsets[num_experts]));
  std::vector<Product> products;
  for (int64_t e = 0; e < num_experts; ++e) {
    products.push_back(MakeProduct(args.x.Rows(offsets[e], offsets[e + 1]), args.w.At(e),
                                   args.y.Rows(offsets[e], offsets[e + 1])));
  }
  RunProducts(products);
}

void CpuOps::GroupedMatMulGrad(const GroupedMatMulGradArgs& args) {
  const int32_t* offsets = args.offsets.data<int32_t>();
  std::vector<Product> products;
  for (int64_t e = 0; e < args.w.dim(0); ++e) {
    const auto rows = [&](const TensorView& view) {
      return view.present() ? view.Rows(offsets[e], offsets[e + 1]) : TensorView();
    };
    const TensorView dw_acc = args.dw_acc.present() ? args.dw_acc.At(e) : TensorView();
    AddGradProducts({rows(args.x), args.w.At(e), rows(args.dy), rows(args.dx), dw_acc}, products);
  }
  RunProducts(products);
}

}  // namespace sluice
