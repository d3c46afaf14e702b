// SwiGLU; formulas in ops/swiglu.h.
#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"

namespace sluice {

template <class Real>
void ReferenceOps<Real>::SwiGlu(const SwiGluArgs& args) {
  const int64_t size = args.out.dim(1);
  for (int64_t r = 0; r < args.out.dim(0); ++r) {
    const Real* gate = args.gate_up.row<Real>(r);
    const Real* up = gate + size;
    for (int64_t j = 0; j < size; ++j) args.out.row<Real>(r)[j] = gate[j] * Sigmoid(gate[j]) * up[j];
  }
}

template <class Real>
void ReferenceOps<Real>::SwiGluGrad(const SwiGluGradArgs& args) {
  const int64_t size = args.dout.dim(1);
  for (int64_t r = 0; r < args.dout.dim(0); ++r) {
    const Real* gate = args.gate_up.row<Real>(r);
    const Real* up = gate + size;
    const Real* dout = args.dout.row<Real>(r);
    Real* dgate = args.dgate_up.row<Real>(r);
    Real* dup = dgate + size;
    for (int64_t j = 0; j < size; ++j) {
      const Real s = Sigmoid(gate[j]);
      dgate[j] = dout[j] * up[j] * (s * (1.0 + gate[j] * OneMinusSigmoid(gate[j])));
      dup[j] = dout[j] * (gate[j] * s);
    }
  }
}

template void ReferenceOps<double>::SwiGlu(const SwiGluArgs&);
template void ReferenceOps<Tracked>::SwiGlu(const SwiGluArgs&);
template void ReferenceOps<double>::SwiGluGrad(const SwiGluGradArgs&);
template void ReferenceOps<Tracked>::SwiGluGrad(const SwiGluGradArgs&);

}  // namespace sluice
