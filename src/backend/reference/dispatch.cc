// Dispatch to experts and back; formulas in ops/dispatch.h.
#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"

namespace sluice {

template <class Real>
void ReferenceOps<Real>::PlanDispatch(const PlanDispatchArgs& args) {
  const int64_t tokens = args.experts.dim(0), k = args.experts.dim(1);
  int32_t* offsets = args.offsets.data<int32_t>();
  int32_t row = 0;
  for (int64_t e = 0; e < args.offsets.dim(0) - 1; ++e) {
    offsets[e] = row;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t slot = 0; slot < k; ++slot) {
        if (args.experts.row<int32_t>(t)[slot] != e) continue;
        args.row_token.data<int32_t>()[row] = static_cast<int32_t>(t);
        args.token_row.row<int32_t>(t)[slot] = row++;
      }
    }
  }
  offsets[args.offsets.dim(0) - 1] = row;
  for (int64_t r = row; r < tokens * k; ++r) args.row_token.data<int32_t>()[r] = -1;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t slot = 0; slot < k; ++slot) {
      if (args.experts.row<int32_t>(t)[slot] < 0) args.token_row.row<int32_t>(t)[slot] = -1;
    }
  }
}

template <class Real>
void ReferenceOps<Real>::Dispatch(const DispatchArgs& args) {
  for (int64_t r = 0; r < args.rows.dim(0); ++r) {
    const int32_t token = args.row_token.data<int32_t>()[r];
    if (token < 0) continue;
    for (int64_t j = 0; j < args.rows.dim(1); ++j) args.rows.row<Real>(r)[j] = args.x.row<Real>(token)[j];
  }
}

template <class Real>
void ReferenceOps<Real>::DispatchGrad(const DispatchGradArgs& args) {
  reference::FillZero<Real>(args.dx);
  for (int64_t t = 0; t < args.dx.dim(0); ++t) {
    for (int64_t slot = 0; slot < args.token_row.dim(1); ++slot) {
      const int32_t row = args.token_row.row<int32_t>(t)[slot];
      if (row < 0) continue;
      for (int64_t j = 0; j < args.dx.dim(1); ++j) args.dx.row<Real>(t)[j] += args.drows.row<Real>(row)[j];
    }
  }
}

template <class Real>
void ReferenceOps<Real>::Combine(const CombineArgs& args) {
  for (int64_t t = 0; t < args.out_acc.dim(0); ++t) {
    for (int64_t slot = 0; slot < args.token_row.dim(1); ++slot) {
      const int32_t row = args.token_row.row<int32_t>(t)[slot];
      if (row < 0) continue;
      reference::AddScaled<Real>(args.out_acc.row<Real>(t), args.gates.row<Real>(t)[slot],
                                 args.rows.row<Real>(row), args.out_acc.dim(1));
    }
  }
}

template <class Real>
void ReferenceOps<Real>::CombineGrad(const CombineGradArgs& args) {
  const int64_t hidden = args.dout.dim(1);
  for (int64_t t = 0; t < args.dout.dim(0); ++t) {
    const Real* dout = args.dout.row<Real>(t);
    for (int64_t slot = 0; slot < args.token_row.dim(1); ++slot) {
      const int32_t row = args.token_row.row<int32_t>(t)[slot];
      Real dgate{};
      if (row >= 0) {
        dgate = reference::Dot<Real>(args.rows.row<Real>(row), dout, hidden);
        const Real gate = args.gates.row<Real>(t)[slot];
        for (int64_t j = 0; j < hidden; ++j) args.drows.row<Real>(row)[j] = gate * dout[j];
      }
      args.dgates.row<Real>(t)[slot] = dgate;
    }
  }
}

template void ReferenceOps<double>::PlanDispatch(const PlanDispatchArgs&);
template void ReferenceOps<Tracked>::PlanDispatch(const PlanDispatchArgs&);
template void ReferenceOps<double>::Dispatch(const DispatchArgs&);
template void ReferenceOps<Tracked>::Dispatch(const DispatchArgs&);
template void ReferenceOps<double>::DispatchGrad(const DispatchGradArgs&);
template void ReferenceOps<Tracked>::DispatchGrad(const DispatchGradArgs&);
template void ReferenceOps<double>::Combine(const CombineArgs&);
template void ReferenceOps<Tracked>::Combine(const CombineArgs&);
template void ReferenceOps<double>::CombineGrad(const CombineGradArgs&);
template void ReferenceOps<Tracked>::CombineGrad(const CombineGradArgs&);

}  // namespace sluice
