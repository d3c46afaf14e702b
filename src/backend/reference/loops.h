// Loops and sums that the reference ops share. Every view's first axis may have a stride of its own;
// the axes after it are contiguous.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/reference/tracked.h"
#include "tensor/tensor.h"

namespace sluice::reference {

// Elements of one index of the first axis.
inline int64_t RowSize(const TensorView& x) {
  int64_t size = 1;
  for (int axis = 1; axis < x.rank(); ++axis) size *= x.dim(axis);
  return size;
}

// body(element of each view...) for every element of views of one shape.
template <class Real, class Body, class... Views>
void ForEachElement(const Body& body, const TensorView& first, const Views&... others) {
  const int64_t rows = first.rank() == 0 ? 0 : first.dim(0);
  const int64_t size = RowSize(first);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < size; ++i) {
      body(first.template row<Real>(r)[i], (others.template row<Real>(r)[i])...);
    }
  }
}

template <class Real>
void FillZero(const TensorView& x) {
  ForEachElement<Real>([](Real& element) { element = Real{}; }, x);
}

template <class Real>
Real Dot(const Real* a, const Real* b, int64_t n) {
  Real sum{};
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// y += a · x
template <class Real>
void AddScaled(Real* y, const Real& a, const Real* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

template <class Real>
std::vector<float> ToFloats(const Real* x, int64_t n) {
  std::vector<float> result(n);
  for (int64_t i = 0; i < n; ++i) result[i] = static_cast<float>(ValueOf(x[i]));
  return result;
}

// log Σ e^x. The maximum enters as an exact constant: the result does not depend on it.
template <class Real>
Real LogSumExp(const Real* x, int64_t n) {
  double largest = ValueOf(x[0]);
  for (int64_t i = 1; i < n; ++i) largest = ValueOf(x[i]) > largest ? ValueOf(x[i]) : largest;
  const Real shift = WithMagnitude<Real>(largest, 0);
  Real sum{};
  for (int64_t i = 0; i < n; ++i) sum += Exp(x[i] - shift);
  return shift + Log(sum);
}

}  // namespace sluice::reference
