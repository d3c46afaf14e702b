// Cross-entropy; formulas in ops/loss.h.
#include <vector>

#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"

namespace sluice {

namespace {

// q[t].
template <class Real>
std::vector<Real> TargetRow(const TeacherTargets& teacher, int64_t t, int32_t target, int64_t vocab) {
  std::vector<Real> q(static_cast<size_t>(vocab), Real{});
  if (teacher.logits.present()) {
    const Real* logits = teacher.logits.row<Real>(t);
    const Real lse = reference::LogSumExp(logits, vocab);
    for (int64_t j = 0; j < vocab; ++j) q[static_cast<size_t>(j)] = Exp(logits[j] - lse) * teacher.share;
  }
  q[static_cast<size_t>(target)] += 1.0 - teacher.share;
  return q;
}

}  // namespace

template <class Real>
void ReferenceOps<Real>::CrossEntropy(const CrossEntropyArgs& args) {
  const int32_t* targets = args.targets.data<int32_t>();
  const int64_t vocab = args.logits.dim(1);
  for (int64_t t = 0; t < args.logits.dim(0); ++t) {
    Real loss{};
    if (targets[t] >= 0) {
      const Real* logits = args.logits.row<Real>(t);
      const Real lse = reference::LogSumExp(logits, vocab);
      const std::vector<Real> q = TargetRow<Real>(args.teacher, t, targets[t], vocab);
      for (int64_t j = 0; j < vocab; ++j) {
        const Real share = q[static_cast<size_t>(j)];
        if (share != Real{}) loss += share * (lse - logits[j]);
      }
    }
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
    const std::vector<Real> q = TargetRow<Real>(args.teacher, t, targets[t], vocab);
    for (int64_t j = 0; j < vocab; ++j) {
      dlogits[j] = args.weight.data<Real>()[t] * (Exp(logits[j] - lse) - q[static_cast<size_t>(j)]);
    }
  }
}

template void ReferenceOps<double>::CrossEntropy(const CrossEntropyArgs&);
template void ReferenceOps<Tracked>::CrossEntropy(const CrossEntropyArgs&);
template void ReferenceOps<double>::CrossEntropyGrad(const CrossEntropyGradArgs&);
template void ReferenceOps<Tracked>::CrossEntropyGrad(const CrossEntropyGradArgs&);

}  // namespace sluice
