// Token embedding; formulas in ops/embedding.h.
#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"

namespace sluice {

template <class Real>
void ReferenceOps<Real>::Embedding(const EmbeddingArgs& args) {
  const int32_t* tokens = args.tokens.data<int32_t>();
  for (int64_t t = 0; t < args.tokens.dim(0); ++t) {
    const Real* from = args.table.row<Real>(tokens[t]);
    Real* out = args.out.row<Real>(t);
    for (int64_t j = 0; j < args.table.dim(1); ++j) out[j] = from[j];
  }
}

template <class Real>
void ReferenceOps<Real>::EmbeddingGrad(const EmbeddingGradArgs& args) {
  const int32_t* tokens = args.tokens.data<int32_t>();
  for (int64_t t = 0; t < args.tokens.dim(0); ++t) {
    const Real* dout = args.dout.row<Real>(t);
    Real* dtable = args.dtable_acc.row<Real>(tokens[t]);
    for (int64_t j = 0; j < args.dtable_acc.dim(1); ++j) dtable[j] += dout[j];
  }
}

template void ReferenceOps<double>::Embedding(const EmbeddingArgs&);
template void ReferenceOps<Tracked>::Embedding(const EmbeddingArgs&);
template void ReferenceOps<double>::EmbeddingGrad(const EmbeddingGradArgs&);
template void ReferenceOps<Tracked>::EmbeddingGrad(const EmbeddingGradArgs&);

}  // namespace sluice
