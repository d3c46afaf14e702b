// Attention over window, sinks and every far key; formulas in ops/attention.h.
#include "backend/reference/attention_math.h"
#include "backend/reference/reference_ops.h"

namespace sluice {
namespace {

template <class Real>
std::vector<reference::AttendedKey<Real>> AllKeys(const AttentionSpan& span, int64_t t) {
  auto keys = reference::WindowAndSinks<Real>(span, t);
  for (int64_t s = span.SinksEnd(t); s < span.WindowBegin(t); ++s) {
    keys.push_back({.key = s, .column = s - span.SinksEnd(t)});
  }
  return keys;
}

}  // namespace

template <class Real>
void ReferenceOps<Real>::FullAttention(const FullAttentionArgs& args) {
  const reference::AttentionHeads<Real> heads(args.in, true);
  for (int64_t t = 0; t < args.in.q.dim(0); ++t) {
    const auto softmax = reference::AttendQuery(heads, t, AllKeys<Real>(args.in.span, t), args.out);
    if (!args.lse.present()) continue;
    for (int64_t h = 0; h < heads.query_heads; ++h) args.lse.row<Real>(t)[h] = softmax[h].lse;
  }
}

// Recomputes the softmax: args.out and args.lse are for backends that would rather not.
template <class Real>
void ReferenceOps<Real>::FullAttentionGrad(const FullAttentionGradArgs& args) {
  const reference::AttentionHeads<Real> heads(args.in);
  reference::ZeroInputGrads<Real>(args.grads);
  for (int64_t t = 0; t < args.in.q.dim(0); ++t) {
    reference::AttendQueryGrad<Real>(heads, t, AllKeys<Real>(args.in.span, t), 1, args.dout, args.grads,
                                     nullptr);
  }
}

template void ReferenceOps<double>::FullAttention(const FullAttentionArgs&);
template void ReferenceOps<Tracked>::FullAttention(const FullAttentionArgs&);
template void ReferenceOps<double>::FullAttentionGrad(const FullAttentionGradArgs&);
template void ReferenceOps<Tracked>::FullAttentionGrad(const FullAttentionGradArgs&);

}  // namespace sluice
