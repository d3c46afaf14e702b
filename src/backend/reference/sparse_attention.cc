// Attention over window, sinks and candidates, its surrogate and the surrogate's gradient; formulas in
// ops/sparse_attention.h.
#include <cmath>

#include "backend/reference/attention_math.h"
#include "backend/reference/reference_ops.h"

namespace sluice {
namespace {

using reference::AttendedKey;
using reference::AttentionHeads;

// Window, sinks and all candidates, with the surrogate's margins.
template <class Real>
std::vector<AttendedKey<Real>> SurrogateKeys(const AttentionInputs& in, const TensorView& candidates,
                                             const SurrogateGate& gate, int64_t t) {
  auto keys = reference::WindowAndSinks<Real>(in.span, t);
  reference::AppendCandidates(candidates, t, candidates.dim(1), keys);
  if (!gate.scores.present()) return keys;
  const Real threshold = gate.threshold.data<Real>()[t];
  if (std::isinf(ValueOf(threshold)) && ValueOf(threshold) < 0) return keys;  // Nothing was left out: m = 1.
  for (AttendedKey<Real>& key : keys) {
    if (key.column < 0) continue;
    key.gated = true;
    key.margin = (gate.scores.row<Real>(t)[key.column] - threshold) / gate.temperature;
  }
  return keys;
}

// The softmax over everything, restricted to the candidates and summed over heads: normalised into
// gate_target, its sum as the mean over heads into gate_mass.
template <class Real>
void DistillationTarget(const AttentionHeads<Real>& heads, const SparseAttentionArgs& args, int64_t t) {
  const int64_t width = args.candidates.dim(1);
  auto keys = reference::WindowAndSinks<Real>(args.in.span, t);
  reference::AppendCandidates(args.candidates, t, width, keys);
  std::vector<Real> target(width);
  Real sum{};
  for (int64_t h = 0; h < heads.query_heads; ++h) {
    const auto softmax = reference::Softmax(heads, t, h, keys);
    for (size_t j = 0; j < keys.size(); ++j) {
      if (keys[j].column < 0) continue;
      target[keys[j].column] += softmax.probs[j];
      sum += softmax.probs[j];
    }
  }
  if (args.gate_target.present()) {
    for (int64_t j = 0; j < width; ++j) {
      const bool absent = args.candidates.row<int32_t>(t)[j] < 0 || ValueOf(sum) == 0;
      args.gate_target.row<Real>(t)[j] = absent ? Real{} : target[j] / sum;
    }
  }
  if (args.gate_mass.present()) args.gate_mass.data<Real>()[t] = sum / static_cast<double>(heads.query_heads);
}

}  // namespace

template <class Real>
void ReferenceOps<Real>::SparseAttention(const SparseAttentionArgs& args) {
  const AttentionHeads<Real> heads(args.in, true);
  for (int64_t t = 0; t < args.in.q.dim(0); ++t) {
    auto keys = reference::WindowAndSinks<Real>(args.in.span, t);
    reference::AppendCandidates(args.candidates, t, args.num_selected, keys);
    reference::AttendQuery(heads, t, keys, args.out);
    if (args.gate_target.present() || args.gate_mass.present()) DistillationTarget(heads, args, t);
  }
}

template <class Real>
void ReferenceOps<Real>::SurrogateAttention(const SurrogateAttentionArgs& args) {
  const AttentionHeads<Real> heads(args.in);
  for (int64_t t = 0; t < args.in.q.dim(0); ++t) {
    reference::AttendQuery(heads, t, SurrogateKeys<Real>(args.in, args.candidates, args.gate, t), args.out);
  }
}

template <class Real>
void ReferenceOps<Real>::SparseAttentionGrad(const SparseAttentionGradArgs& args) {
  const AttentionHeads<Real> heads(args.in);
  reference::ZeroInputGrads<Real>(args.grads);
  for (int64_t t = 0; t < args.in.q.dim(0); ++t) {
    const auto keys = SurrogateKeys<Real>(args.in, args.candidates, args.gate, t);
    Real* dscores = args.gate.scores.present() ? args.dscores_acc.row<Real>(t) : nullptr;
    reference::AttendQueryGrad(heads, t, keys, args.gate.temperature, args.dout, args.grads, dscores);
  }
}

template void ReferenceOps<double>::SparseAttention(const SparseAttentionArgs&);
template void ReferenceOps<Tracked>::SparseAttention(const SparseAttentionArgs&);
template void ReferenceOps<double>::SurrogateAttention(const SurrogateAttentionArgs&);
template void ReferenceOps<Tracked>::SurrogateAttention(const SurrogateAttentionArgs&);
template void ReferenceOps<double>::SparseAttentionGrad(const SparseAttentionGradArgs&);
template void ReferenceOps<Tracked>::SparseAttentionGrad(const SparseAttentionGradArgs&);

}  // namespace sluice
