// Optimiser steps; formulas in ops/optimizer.h.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"

namespace sluice {
namespace {

// Newton-Schulz coefficients; the first one is the most that a pass can magnify a perturbation.
constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;

// A row-major matrix of float64.
struct Matrix {
  int64_t rows = 0, cols = 0;
  std::vector<double> data;

  Matrix(int64_t num_rows, int64_t num_cols) : rows(num_rows), cols(num_cols), data(num_rows * num_cols) {}
  double& at(int64_t i, int64_t j) { return data[i * cols + j]; }
  double at(int64_t i, int64_t j) const { return data[i * cols + j]; }
};

Matrix Transpose(const Matrix& x) {
  Matrix result(x.cols, x.rows);
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t j = 0; j < x.cols; ++j) result.at(j, i) = x.at(i, j);
  }
  return result;
}

Matrix Multiply(const Matrix& a, const Matrix& b) {
  Matrix result(a.rows, b.cols);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t k = 0; k < a.cols; ++k) {
      for (int64_t j = 0; j < b.cols; ++j) result.at(i, j) += a.at(i, k) * b.at(k, j);
    }
  }
  return result;
}

Matrix Orthogonalize(Matrix x, int iterations) {
  double sum = 0;
  for (double value : x.data) sum += value * value;
  if (sum == 0) return x;
  for (double& value : x.data) value /= std::sqrt(sum);
  const bool tall = x.rows > x.cols;
  if (tall) x = Transpose(x);
  for (int i = 0; i < iterations; ++i) {
    const Matrix a = Multiply(x, Transpose(x));
    Matrix polynomial = Multiply(a, a);
    for (size_t j = 0; j < a.data.size(); ++j) polynomial.data[j] = kB * a.data[j] + kC * polynomial.data[j];
    const Matrix change = Multiply(polynomial, x);
    for (size_t j = 0; j < x.data.size(); ++j) x.data[j] = kA * x.data[j] + change.data[j];
  }
  return tall ? Transpose(x) : x;
}

}  // namespace

template <class Real>
void ReferenceOps<Real>::AdamW(const AdamWArgs& args) {
  const double step = static_cast<double>(args.step);
  const double correction1 = 1 - std::pow(args.beta1, step), correction2 = 1 - std::pow(args.beta2, step);
  reference::ForEachElement<Real>(
      [&](Real& param, const Real& grad, Real& m, Real& v) {
        m = args.beta1 * m + (1 - args.beta1) * grad;
        v = args.beta2 * v + (1 - args.beta2) * grad * grad;
        const Real update = m / correction1 / (Sqrt(v / correction2) + args.eps);
        param -= args.lr * (update + args.weight_decay * param);
      },
      args.param, args.grad, args.m, args.v);
}

// The Newton-Schulz passes run in float64 untracked: elementwise bounds through ten chained products
// say nothing, while by norms an error of eps in X (‖X‖_F = 1) grows at most kA-fold per pass.
template <class Real>
void ReferenceOps<Real>::Muon(const MuonArgs& args) {
  reference::ForEachElement<Real>(
      [&](const Real& grad, Real& momentum) { momentum = args.mu * momentum + grad; }, args.grad,
      args.momentum);
  const int rank = args.param.rank();
  const int64_t matrices = rank == 3 ? args.param.dim(0) : 1;
  const int64_t rows = args.param.dim(rank - 2), cols = args.param.dim(rank - 1);
  // Element (i, j) of matrix n of a view.
  const auto element = [&](const TensorView& view, int64_t n, int64_t i, int64_t j) -> Real& {
    return rank == 3 ? view.row<Real>(n)[i * cols + j] : view.row<Real>(i)[j];
  };
  const double magnitude = std::pow(kA, args.iterations);
  const double factor = 0.2 * std::sqrt(static_cast<double>(std::max(rows, cols)));
  for (int64_t n = 0; n < matrices; ++n) {
    Matrix u(rows, cols);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        u.at(i, j) =
            ValueOf(element(args.grad, n, i, j)) + args.mu * ValueOf(element(args.momentum, n, i, j));
      }
    }
    const Matrix o = Orthogonalize(u, args.iterations);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        Real& param = element(args.param, n, i, j);
        param -= args.lr * (factor * WithMagnitude<Real>(o.at(i, j), magnitude) + args.weight_decay * param);
      }
    }
  }
}

template void ReferenceOps<double>::AdamW(const AdamWArgs&);
template void ReferenceOps<Tracked>::AdamW(const AdamWArgs&);
template void ReferenceOps<double>::Muon(const MuonArgs&);
template void ReferenceOps<Tracked>::Muon(const MuonArgs&);

}  // namespace sluice
