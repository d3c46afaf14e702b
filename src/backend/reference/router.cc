// The capacity-aware router, its losses, gradient and histogram; formulas in ops/router.h.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"
#include "base/error.h"

namespace sluice {
namespace {

// All experts by falling p + bias, ties to the lower index.
template <class Real>
std::vector<int32_t> RankExperts(const Real* probs, const Real* bias, int64_t num_experts) {
  std::vector<int32_t> order(num_experts);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return ValueOf(probs[a]) + ValueOf(bias[a]) > ValueOf(probs[b]) + ValueOf(bias[b]);
  });
  return order;
}

// Writes the served experts of token t and their gates.
template <class Real>
void Serve(const RouterArgs& args, int64_t t, const std::vector<int32_t>& served) {
  Real sum{};
  for (int32_t e : served) sum += args.probs.row<Real>(t)[e];
  for (int64_t slot = 0; slot < args.experts_per_token; ++slot) {
    const bool present = slot < static_cast<int64_t>(served.size());
    args.experts.row<int32_t>(t)[slot] = present ? served[slot] : -1;
    Real gate{};
    if (present && ValueOf(sum) > 0) gate = args.probs.row<Real>(t)[served[slot]] / sum;
    args.gates.row<Real>(t)[slot] = gate;
  }
}

// Serves every token under a capacity, position-major in blocks across sequences.
template <class Real>
void ServeWithinCapacity(const RouterArgs& args, const std::vector<std::vector<int32_t>>& ranked) {
  const int64_t num_experts = args.bias.dim(0), k = args.experts_per_token, length = args.sequence_length;
  const int64_t tokens = args.logits.dim(0);
  const int64_t sequences = length > 0 ? tokens / length : 0;
  const int64_t num_tries = args.capacity.NumTries(k, num_experts);
  std::vector<int64_t> demand(num_experts), used(num_experts), limit(num_experts);
  for (int64_t begin = 0; begin < length; begin += RouterCapacity::kBlockPositions) {
    const int64_t end = std::min(begin + RouterCapacity::kBlockPositions, length);
    for (int64_t e = 0; e < num_experts; ++e) {
      limit[e] = args.capacity.Limit(k, num_experts, demand[e], begin * sequences, end * sequences, tokens);
    }
    for (int64_t position = begin; position < end; ++position) {
      for (int64_t sequence = 0; sequence < sequences; ++sequence) {
        const int64_t t = sequence * length + position;
        std::vector<int32_t> served;
        for (int64_t i = 0; i < num_tries && static_cast<int64_t>(served.size()) < k; ++i) {
          const int32_t e = ranked[t][i];
          if (used[e] >= limit[e]) continue;
          ++used[e];
          served.push_back(e);
        }
        for (int64_t i = 0; i < k; ++i) ++demand[ranked[t][i]];
        Serve<Real>(args, t, served);
      }
    }
  }
}

// Shares of each expert among the choices of `tokens` tokens from `begin` on.
std::vector<double> ChoiceShares(const TensorView& choices, int64_t num_experts, int64_t begin,
                                 int64_t tokens) {
  const int64_t k = choices.dim(1);
  std::vector<double> shares(num_experts);
  for (int64_t t = begin; t < begin + tokens; ++t) {
    for (int64_t slot = 0; slot < k; ++slot) shares[choices.row<int32_t>(t)[slot]] += 1;
  }
  for (double& share : shares) share /= static_cast<double>(tokens * k);
  return shares;
}

// E Σ_i f_i P_i − 1 over `tokens` tokens from `begin` on.
template <class Real>
double BalanceLoss(const TensorView& probs, const TensorView& choices, int64_t begin, int64_t tokens) {
  const int64_t num_experts = probs.dim(1);
  const std::vector<double> shares = ChoiceShares(choices, num_experts, begin, tokens);
  double sum = 0;
  for (int64_t t = begin; t < begin + tokens; ++t) {
    double total = 0, weighted = 0;
    for (int64_t e = 0; e < num_experts; ++e) {
      total += ValueOf(probs.row<Real>(t)[e]);
      weighted += shares[e] * ValueOf(probs.row<Real>(t)[e]);
    }
    sum += weighted / total;
  }
  return static_cast<double>(num_experts) * sum / static_cast<double>(tokens) - 1;
}

// Adds a balance loss's gradient by the probabilities of token t:
//   weight · E / tokens · (f_i − Σ_j f_j u_j) / Z,  u = p / Z,  Z = Σ p
template <class Real>
void AddBalanceGrad(const Real* probs, const std::vector<double>& shares, double weight,
                    std::vector<Real>& dprobs) {
  Real total{}, weighted{};
  for (size_t e = 0; e < shares.size(); ++e) {
    total += probs[e];
    weighted += shares[e] * probs[e];
  }
  for (size_t e = 0; e < shares.size(); ++e) dprobs[e] += weight * (shares[e] - weighted / total) / total;
}

}  // namespace

template <class Real>
void ReferenceOps<Real>::Router(const RouterArgs& args) {
  const int64_t tokens = args.logits.dim(0), num_experts = args.logits.dim(1), k = args.experts_per_token;
  std::vector<std::vector<int32_t>> ranked(tokens);
  for (int64_t t = 0; t < tokens; ++t) {
    Real* probs = args.probs.row<Real>(t);
    const Real* logits = args.logits.row<Real>(t);
    for (int64_t e = 0; e < num_experts; ++e) {
      if (std::isnan(ValueOf(logits[e]))) {
        throw InputError("router: the logit of token {} for expert {} is not a number", t, e);
      }
    }
    const bool softmax = args.scores == RouterScores::kSoftmax;
    const Real lse = softmax ? reference::LogSumExp(logits, num_experts) : Real{};
    for (int64_t e = 0; e < num_experts; ++e) probs[e] = softmax ? Exp(logits[e] - lse) : Sigmoid(logits[e]);
    ranked[t] = RankExperts(probs, args.bias.data<Real>(), num_experts);
    std::copy_n(ranked[t].begin(), k, args.choices.row<int32_t>(t));
    if (!args.capacity.limits()) Serve<Real>(args, t, {ranked[t].begin(), ranked[t].begin() + k});
  }
  if (args.capacity.limits()) ServeWithinCapacity<Real>(args, ranked);
}

template <class Real>
void ReferenceOps<Real>::RouterLoss(const RouterLossArgs& args) {
  const int64_t tokens = args.logits.dim(0), num_experts = args.logits.dim(1);
  *args.balance = *args.sequence_balance = *args.z = 0;
  if (tokens == 0) return;
  *args.balance = BalanceLoss<Real>(args.probs, args.choices, 0, tokens);
  const int64_t sequences = tokens / args.sequence_length;
  for (int64_t s = 0; s < sequences; ++s) {
    *args.sequence_balance +=
        BalanceLoss<Real>(args.probs, args.choices, s * args.sequence_length, args.sequence_length) /
        static_cast<double>(sequences);
  }
  for (int64_t t = 0; t < tokens; ++t) {
    const double lse = ValueOf(reference::LogSumExp(args.logits.row<Real>(t), num_experts));
    *args.z += lse * lse / static_cast<double>(tokens);
  }
}

template <class Real>
void ReferenceOps<Real>::RouterGrad(const RouterGradArgs& args) {
  const int64_t tokens = args.logits.dim(0), num_experts = args.logits.dim(1), k = args.gates.dim(1);
  if (tokens == 0) return;
  const double per_token = static_cast<double>(num_experts) / static_cast<double>(tokens);
  const std::vector<double> shares = ChoiceShares(args.choices, num_experts, 0, tokens);
  std::vector<double> sequence_shares;
  for (int64_t t = 0; t < tokens; ++t) {
    if (t % args.sequence_length == 0) {
      sequence_shares = ChoiceShares(args.choices, num_experts, t, args.sequence_length);
    }
    const Real* probs = args.probs.row<Real>(t);
    std::vector<Real> dprobs(num_experts);
    AddBalanceGrad(probs, shares, args.weights.balance * per_token, dprobs);
    AddBalanceGrad(probs, sequence_shares, args.weights.sequence_balance * per_token, dprobs);
    // gate_i = p_i / S: dp_i = (dgate_i − Σ_j dgate_j gate_j) / S
    Real served_sum{}, weighted{};
    for (int64_t slot = 0; slot < k; ++slot) {
      const int32_t e = args.experts.row<int32_t>(t)[slot];
      if (e < 0) continue;
      served_sum += probs[e];
      weighted += args.dgates.row<Real>(t)[slot] * args.gates.row<Real>(t)[slot];
    }
    for (int64_t slot = 0; slot < k; ++slot) {
      const int32_t e = args.experts.row<int32_t>(t)[slot];
      if (e >= 0 && ValueOf(served_sum) > 0)
        dprobs[e] += (args.dgates.row<Real>(t)[slot] - weighted) / served_sum;
    }
    const Real* logits = args.logits.row<Real>(t);
    const Real lse = reference::LogSumExp(logits, num_experts);
    const double z_weight = 2 * args.weights.z / static_cast<double>(tokens);
    const bool softmax = args.scores == RouterScores::kSoftmax;
    Real mean{};  // Of dprobs under a softmax.
    for (int64_t e = 0; e < num_experts; ++e) mean += probs[e] * dprobs[e];
    for (int64_t e = 0; e < num_experts; ++e) {
      const Real dlogit = softmax ? probs[e] * (dprobs[e] - mean) : dprobs[e] * probs[e] * (1.0 - probs[e]);
      args.dlogits.row<Real>(t)[e] = dlogit + z_weight * lse * Exp(logits[e] - lse);
    }
  }
}

template <class Real>
void ReferenceOps<Real>::RouterHistogram(const RouterHistogramArgs& args) {
  const int64_t num_experts = args.probs.dim(1), bins = args.counts_acc.dim(1);
  const int64_t rank = std::min(args.experts_per_token, num_experts - 1);
  for (int64_t t = 0; t < args.probs.dim(0); ++t) {
    const Real* probs = args.probs.row<Real>(t);
    const Real* bias = args.bias.data<Real>();
    const int32_t next = RankExperts(probs, bias, num_experts)[rank];
    const double level = ValueOf(probs[next]) + ValueOf(bias[next]);
    for (int64_t e = 0; e < num_experts; ++e) {
      const double bin = std::floor((ValueOf(probs[e]) - level + 2) / 4 * static_cast<double>(bins));
      const auto clamped = static_cast<int64_t>(std::clamp(bin, 0.0, static_cast<double>(bins - 1)));
      args.counts_acc.row<int32_t>(e)[clamped] += 1;
    }
  }
}

template void ReferenceOps<double>::Router(const RouterArgs&);
template void ReferenceOps<Tracked>::Router(const RouterArgs&);
template void ReferenceOps<double>::RouterLoss(const RouterLossArgs&);
template void ReferenceOps<Tracked>::RouterLoss(const RouterLossArgs&);
template void ReferenceOps<double>::RouterGrad(const RouterGradArgs&);
template void ReferenceOps<Tracked>::RouterGrad(const RouterGradArgs&);
template void ReferenceOps<double>::RouterHistogram(const RouterHistogramArgs&);
template void ReferenceOps<Tracked>::RouterHistogram(const RouterHistogramArgs&);

}  // namespace sluice
