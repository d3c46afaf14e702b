// Matrix products, plain and grouped by expert; formulas in ops/matmul.h.
#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"

namespace sluice {
namespace {

// Rows [begin, end) of x times one matrix `w`, [out, in] with rows `w_stride` apart.
template <class Real>
void MultiplyRows(const TensorView& x, const Real* w, int64_t w_stride, int64_t begin, int64_t end,
                  const TensorView& y) {
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t n = 0; n < y.dim(1); ++n) {
      y.row<Real>(r)[n] = reference::Dot(x.row<Real>(r), w + n * w_stride, x.dim(1));
    }
  }
}

// dx[r] = Σ_n dy[r, n] w[n] for rows [begin, end).
template <class Real>
void InputGrad(const TensorView& dy, const Real* w, int64_t w_stride, int64_t begin, int64_t end,
               const TensorView& dx) {
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t k = 0; k < dx.dim(1); ++k) dx.row<Real>(r)[k] = Real{};
    for (int64_t n = 0; n < dy.dim(1); ++n) {
      reference::AddScaled(dx.row<Real>(r), dy.row<Real>(r)[n], w + n * w_stride, dx.dim(1));
    }
  }
}

// dw[n] += Σ_r dy[r, n] x[r] over rows [begin, end), the sum first.
template <class Real>
void WeightGrad(const TensorView& dy, const TensorView& x, int64_t begin, int64_t end, Real* dw,
                int64_t dw_stride) {
  for (int64_t n = 0; n < dy.dim(1); ++n) {
    for (int64_t k = 0; k < x.dim(1); ++k) {
      Real sum{};
      for (int64_t r = begin; r < end; ++r) sum += dy.row<Real>(r)[n] * x.row<Real>(r)[k];
      dw[n * dw_stride + k] += sum;
    }
  }
}

}  // namespace

template <class Real>
void ReferenceOps<Real>::MatMul(const MatMulArgs& args) {
  MultiplyRows(args.x, args.w.data<Real>(), args.w.row_stride(), 0, args.x.dim(0), args.y);
}

template <class Real>
void ReferenceOps<Real>::MatMulGrad(const MatMulGradArgs& args) {
  const int64_t rows = args.dy.dim(0);
  if (args.dx.present()) InputGrad(args.dy, args.w.data<Real>(), args.w.row_stride(), 0, rows, args.dx);
  if (args.dw_acc.present()) {
    WeightGrad(args.dy, args.x, 0, rows, args.dw_acc.data<Real>(), args.dw_acc.row_stride());
  }
}

template <class Real>
void ReferenceOps<Real>::GroupedMatMul(const GroupedMatMulArgs& args) {
  const int32_t* offsets = args.offsets.data<int32_t>();
  for (int64_t e = 0; e < args.w.dim(0); ++e) {
    MultiplyRows(args.x, args.w.row<Real>(e), args.w.dim(2), offsets[e], offsets[e + 1], args.y);
  }
}

template <class Real>
void ReferenceOps<Real>::GroupedMatMulGrad(const GroupedMatMulGradArgs& args) {
  const int32_t* offsets = args.offsets.data<int32_t>();
  const int64_t in = args.w.dim(2);
  for (int64_t e = 0; e < args.w.dim(0); ++e) {
    const int64_t begin = offsets[e], end = offsets[e + 1];
    if (args.dx.present()) InputGrad(args.dy, args.w.row<Real>(e), in, begin, end, args.dx);
    if (args.dw_acc.present()) WeightGrad(args.dy, args.x, begin, end, args.dw_acc.row<Real>(e), in);
  }
}

template void ReferenceOps<double>::MatMul(const MatMulArgs&);
template void ReferenceOps<Tracked>::MatMul(const MatMulArgs&);
template void ReferenceOps<double>::MatMulGrad(const MatMulGradArgs&);
template void ReferenceOps<Tracked>::MatMulGrad(const MatMulGradArgs&);
template void ReferenceOps<double>::GroupedMatMul(const GroupedMatMulArgs&);
template void ReferenceOps<Tracked>::GroupedMatMul(const GroupedMatMulArgs&);
template void ReferenceOps<double>::GroupedMatMulGrad(const GroupedMatMulGradArgs&);
template void ReferenceOps<Tracked>::GroupedMatMulGrad(const GroupedMatMulGradArgs&);

}  // namespace sluice
