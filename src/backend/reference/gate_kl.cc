// Distillation of attention into the gate, over listed keys and over every far key; formulas in
// ops/gate.h.
#include <vector>

#include "backend/reference/attention_math.h"
#include "backend/reference/gate_scores.h"
#include "backend/reference/reference_ops.h"

namespace sluice {
namespace {

template <class Real>
Real Sum(const std::vector<Real>& x) {
  Real sum{};
  for (const Real& element : x) sum += element;
  return sum;
}

// Loss of one query and its gradient by each score; `scores` and `target` list the present keys.
template <class Real>
Real KlAndGrad(const std::vector<Real>& scores, const std::vector<Real>& target, const Real& mass,
               double floor, double scale, std::vector<Real>& dscores) {
  dscores.assign(scores.size(), Real{});
  if (scores.empty() || !(ValueOf(Sum(target)) > 0)) return Real{};
  const Real lse = reference::LogSumExp(scores.data(), static_cast<int64_t>(scores.size()));
  const Real weight = mass + floor;
  Real kl{};
  for (size_t j = 0; j < scores.size(); ++j) {
    const Real log_q = scores[j] - lse;
    if (ValueOf(target[j]) > 0) kl += target[j] * (Log(target[j]) - log_q);
    dscores[j] = scale * weight * (Exp(log_q) - target[j]);
  }
  return weight * kl;
}

}  // namespace

template <class Real>
void ReferenceOps<Real>::GateKl(const GateKlArgs& args) {
  for (int64_t t = 0; t < args.candidates.dim(0); ++t) {
    std::vector<int64_t> columns;
    std::vector<Real> scores, target, dscores;
    for (int64_t j = 0; j < args.candidates.dim(1); ++j) {
      args.dscores.row<Real>(t)[j] = Real{};
      if (args.candidates.row<int32_t>(t)[j] < 0) continue;
      columns.push_back(j);
      scores.push_back(args.scores.row<Real>(t)[j]);
      target.push_back(args.target.row<Real>(t)[j]);
    }
    const Real mass = args.mass.data<Real>()[t];
    args.loss.data<Real>()[t] = KlAndGrad(scores, target, mass, args.mass_floor, args.scale, dscores);
    for (size_t i = 0; i < columns.size(); ++i) args.dscores.row<Real>(t)[columns[i]] = dscores[i];
  }
}

template <class Real>
void ReferenceOps<Real>::DenseGateKl(const DenseGateKlArgs& args) {
  const reference::AttentionHeads<Real> heads(args.in);
  const reference::GateScorer<Real> scorer{args.gq, args.gw, args.gk};
  for (const TensorView& view : {args.dgq, args.dgw, args.dgk}) reference::FillZero<Real>(view);
  for (int64_t t = 0; t < args.in.q.dim(0); ++t) {
    const int64_t begin = args.in.span.SinksEnd(t), num_far = args.in.span.NumFar(t);
    std::vector<Real> scores(num_far), target(num_far), dscores;
    for (int64_t i = 0; i < num_far; ++i) {
      scores[i] = scorer.Score(t, begin + i);
      for (int64_t h = 0; h < heads.query_heads; ++h) {
        target[i] += Exp(heads.Logit(t, h, {.key = begin + i, .column = i}) - args.lse.row<Real>(t)[h]);
      }
    }
    const Real sum = Sum(target);
    if (ValueOf(sum) > 0) {
      for (Real& element : target) element = element / sum;
    }
    const Real mass = sum / static_cast<double>(heads.query_heads);
    args.loss.data<Real>()[t] = KlAndGrad(scores, target, mass, args.mass_floor, args.scale, dscores);
    for (int64_t i = 0; i < num_far; ++i) {
      scorer.AddGrad(t, begin + i, dscores[i], args.dgq, args.dgw, args.dgk);
    }
  }
}

template void ReferenceOps<double>::GateKl(const GateKlArgs&);
template void ReferenceOps<Tracked>::GateKl(const GateKlArgs&);
template void ReferenceOps<double>::DenseGateKl(const DenseGateKlArgs&);
template void ReferenceOps<Tracked>::DenseGateKl(const DenseGateKlArgs&);

}  // namespace sluice
