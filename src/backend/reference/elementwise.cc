// Elementwise helpers; formulas in ops/elementwise.h.
#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"

namespace sluice {

using reference::ForEachElement;

template <class Real>
void ReferenceOps<Real>::Add(const AddArgs& args) {
  ForEachElement<Real>([](const Real& x, Real& out) { out += x; }, args.x, args.out);
}

template <class Real>
void ReferenceOps<Real>::Scale(const ScaleArgs& args) {
  ForEachElement<Real>([&](Real& x) { x *= args.factor; }, args.x);
}

template <class Real>
void ReferenceOps<Real>::Silu(const SiluArgs& args) {
  ForEachElement<Real>([](const Real& x, Real& out) { out = x * Sigmoid(x); }, args.x, args.out);
}

// silu'(x) = s (1 + x (1 − s)), s = sigmoid(x)
template <class Real>
void ReferenceOps<Real>::SiluGrad(const SiluGradArgs& args) {
  ForEachElement<Real>([](const Real& x, const Real& dout,
                          Real& dx) { dx = dout * (Sigmoid(x) * (1.0 + x * OneMinusSigmoid(x))); },
                       args.x, args.dout, args.dx);
}

template <class Real>
void ReferenceOps<Real>::SumSquares(const SumSquaresArgs& args) {
  double sum = 0;
  ForEachElement<Real>([&](const Real& x) { sum += ValueOf(x) * ValueOf(x); }, args.x);
  *args.result = sum;
}

template void ReferenceOps<double>::Add(const AddArgs&);
template void ReferenceOps<Tracked>::Add(const AddArgs&);
template void ReferenceOps<double>::Scale(const ScaleArgs&);
template void ReferenceOps<Tracked>::Scale(const ScaleArgs&);
template void ReferenceOps<double>::Silu(const SiluArgs&);
template void ReferenceOps<Tracked>::Silu(const SiluArgs&);
template void ReferenceOps<double>::SiluGrad(const SiluGradArgs&);
template void ReferenceOps<Tracked>::SiluGrad(const SiluGradArgs&);
template void ReferenceOps<double>::SumSquares(const SumSquaresArgs&);
template void ReferenceOps<Tracked>::SumSquares(const SumSquaresArgs&);

}  // namespace sluice
