// Cross-entropy; formulas in ops/loss.h.
#include <vector>

#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"

namespace sluice {

template <class Real>
void ReferenceOps<Real>::CrossEntropy(const CrossEntropyArgs& args) {
  const int32_t* targets = args.targets.data<int32_t>();
  for (int64_t t = 0; t < args.logits.dim(0); ++t) {
    const Real* logits = args.logits.row<Real>(t);
    Real loss{};
    if (targets[t] >= 0) loss = reference::LogSumExp(logits, args.logits.dim(1)) - logits[targets[t]];
    args.loss.data<Real>()[t] = loss;
  }
}

template <class Real>
void ReferenceOps<Real>::CrossEntropyGrad(const CrossEntropyGradArgs& args) {
  const int32_t* targets = args.targets.data<int32_t>();
  const int64_t vocab = args.logits.dim(1);
  for (int64_t t = 0; t < args.logits.dim(0); ++t) {
    Real* dlogits = args.dlogits.row<Real>(t);
    if (targets[t] < 0) {
      for (int64_t j = 0; j < vocab; ++j) dlogits[j] = Real{};
      continue;
    }
    const Real* row = args.logits.row<Real>(t);
    const std::vector<Real> logits(row, row + vocab);  // dlogits may be the same memory.
    const Real lse = reference::LogSumExp(logits.data(), vocab);
    for (int64_t j = 0; j < vocab; ++j) {
      const Real p = Exp(logits[j] - lse);
      dlogits[j] = args.weight.data<Real>()[t] * (j == targets[t] ? p - 1.0 : p);
    }
  }
}

template void ReferenceOps<double>::CrossEntropy(const CrossEntropyArgs&);
template void ReferenceOps<Tracked>::CrossEntropy(const CrossEntropyArgs&);
template void ReferenceOps<double>::CrossEntropyGrad(const CrossEntropyGradArgs&);
template void ReferenceOps<Tracked>::CrossEntropyGrad(const CrossEntropyGradArgs&);

}  // namespace sluice
