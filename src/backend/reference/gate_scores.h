// The unquantised gate score and its gradient:
//   score(t, s) = Σ_h softplus(gw[t, h]) · max(0, gq[t, h] · gk[s])
#pragma once

#include "backend/reference/loops.h"

namespace sluice::reference {

template <class Real>
struct GateScorer {
  const TensorView& gq;  // [tokens, gate_heads, size]
  const TensorView& gw;  // [tokens, gate_heads]
  const TensorView& gk;  // [keys, size]

  Real HeadDot(int64_t t, int64_t h, int64_t s) const {
    return Dot(gq.row<Real>(t) + h * gq.dim(2), gk.row<Real>(s), gq.dim(2));
  }

  Real Score(int64_t t, int64_t s) const {
    Real sum{};
    for (int64_t h = 0; h < gq.dim(1); ++h) sum += Softplus(gw.row<Real>(t)[h]) * Relu(HeadDot(t, h, s));
    return sum;
  }

  // Adds d(score(t, s)) · dscore to the three gradients.
  void AddGrad(int64_t t, int64_t s, const Real& dscore, const TensorView& dgq, const TensorView& dgw,
               const TensorView& dgk) const {
    const int64_t size = gq.dim(2);
    for (int64_t h = 0; h < gq.dim(1); ++h) {
      const Real dot = HeadDot(t, h, s);
      const Real weight = gw.row<Real>(t)[h];
      const Real ddot = dscore * Softplus(weight) * Step(dot);
      dgw.row<Real>(t)[h] += dscore * Relu(dot) * Sigmoid(weight);
      AddScaled(dgq.row<Real>(t) + h * size, ddot, gk.row<Real>(s), size);
      AddScaled(dgk.row<Real>(s), ddot, gq.row<Real>(t) + h * size, size);
    }
  }
};

}  // namespace sluice::reference
