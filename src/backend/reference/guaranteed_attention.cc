// Attention with a bound on what it did not read; formulas in ops/guaranteed_attention.h. Which keys are read
// is decided in float64; outputs and the final bound are tracked.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

#include "backend/reference/attention_math.h"
#include "backend/reference/reference_ops.h"

namespace sluice {
namespace {

using reference::AttendedKey;
using reference::AttentionHeads;
using Numerics = GuaranteeNumerics;

template <class Real>
Real Norm(const Real* x, int64_t n) {
  Real sum{};
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return Sqrt(sum);
}

template <class Real>
Real Larger(const Real& a, const Real& b) {
  return ValueOf(b) > ValueOf(a) ? b : a;
}

template <class Real>
Real Absolute(const Real& x) {
  return ValueOf(x) < 0 ? -x : x;
}

// A far key that a query has not read.
template <class Real>
struct UnreadKey {
  int64_t key = 0;
  int level = 0;
  std::vector<Real> bounds;  // [query_heads]: B
};

// One query's decisions.
template <class Real>
class GuaranteedQuery {
 public:
  GuaranteedQuery(const GuaranteedAttentionArgs& args, int64_t t)
      : args_(args), heads_(args.in), t_(t), first_far_(args.in.span.SinksEnd(t)) {
    const AttentionSpan& span = args.in.span;
    keys_ = reference::WindowAndSinks<Real>(span, t);
    reference::AppendCandidates(args.candidates, t, args.candidates.dim(1), keys_);
    std::set<int64_t> selected;
    for (AttendedKey<Real>& key : keys_) {
      if (key.column < 0) continue;
      selected.insert(key.key);
      key.column = BiasColumn(key.key);
    }
    first_denominators_ = denominators_ = Denominators();
    for (int64_t s = first_far_; s < span.WindowBegin(t); ++s) {
      if (!selected.contains(s)) unread_.push_back(Unread(s));
    }
    num_unselected_ = unread_.size();
    FindSlack();
  }

  void Run() {
    int level = Numerics::kLevels;  // What is on it or above is read.
    while (!unread_.empty() && !Holds()) {
      level = NextLevel(level);
      if (ReadsAllFrom(level)) {
        level = 1;
        heads_.rounds = args_.in.k.dtype() == DType::kBF16;  // As full attention may.
      }
      const auto is_next = [&](const UnreadKey<Real>& key) { return key.level >= level; };
      for (const UnreadKey<Real>& key : unread_) {
        if (is_next(key)) keys_.push_back({.key = key.key, .column = BiasColumn(key.key)});
      }
      std::erase_if(unread_, is_next);
      denominators_ = Denominators();
    }
    Real bound{};
    for (int64_t h = 0; h < heads_.query_heads; ++h) {
      const Real lse = Attend(h);
      if (!unread_.empty()) bound = Larger(bound, MissedMass(h, lse));
    }
    args_.bound.template data<Real>()[t_] = bound;
    args_.keys_read.template data<int32_t>()[t_] = static_cast<int32_t>(keys_.size());
  }

 private:
  int64_t BiasColumn(int64_t s) const { return s - first_far_; }
  bool HasBias() const { return args_.in.bias.scores.present(); }
  Real Score(int64_t s) const { return args_.in.bias.scores.template row<Real>(t_)[BiasColumn(s)]; }
  int64_t KvHead(int64_t h) const { return h / heads_.heads_per_kv; }
  const Real* Weight(int64_t h) const { return args_.codebook.weight.template row<Real>(KvHead(h)); }
  const Real* Mean(int64_t h) const { return args_.codebook.mean.template row<Real>(KvHead(h)); }
  const Real* Codeword(int64_t h, int64_t i) const {
    return args_.codebook.codewords.template row<Real>(KvHead(h)) + i * heads_.head_size;
  }
  static Real Distance(uint8_t code) { return Real{KeyCodeNumerics::Distances()[code]}; }

  Real Bound(int64_t h, int64_t s) const {
    const int64_t d = heads_.head_size, stages = args_.codebook.num_stages();
    const Real* q = heads_.Query(t_, h, false);
    Real dot = reference::Dot<Real>(q, Mean(h), d);
    for (int64_t j = 0; j < stages; ++j) {
      const int64_t code = args_.codes.Codes(s)[KvHead(h) * stages + j];
      dot += reference::Dot<Real>(q, Codeword(h, j * KeyCodebook::kCodewords + code), d);
    }
    std::vector<Real> unweighted;
    for (int64_t c = 0; c < d; ++c) unweighted.push_back(q[c] / Weight(h)[c]);
    dot += Norm(unweighted.data(), d) * Distance(args_.codes.Distance(s)[KvHead(h)]);
    const Real bound = dot * heads_.logit_scale;
    return HasBias() ? bound + heads_.BiasWeight(h) * Score(s) : bound;
  }

  UnreadKey<Real> Unread(int64_t s) const {
    UnreadKey<Real> unread;
    unread.key = s;
    double largest = -HUGE_VAL;
    for (int64_t h = 0; h < heads_.query_heads; ++h) {
      unread.bounds.push_back(Bound(h, s));
      largest = std::max(largest, Log2Term(h, unread.bounds.back()));
    }
    unread.level = Numerics::Level(largest);
    return unread;
  }

  // Of exp(B) / Z_0; NaN counts as the largest.
  double Log2Term(int64_t h, const Real& bound) const {
    const double term = (ValueOf(bound) - first_denominators_[static_cast<size_t>(h)]) * std::numbers::log2e;
    return term <= Numerics::kMaxTermLog2 ? term : Numerics::kMaxTermLog2;
  }

  // r of every head.
  void FindSlack() {
    const int64_t d = heads_.head_size;
    const AttentionSpan& span = args_.in.span;
    Real score{};
    if (HasBias()) {
      for (int64_t s = first_far_; s < span.WindowBegin(t_); ++s) score = Larger(score, Absolute(Score(s)));
    }
    const Real factor = Constant<Real>(Numerics::LogitError(d));
    const int64_t num_keys = span.Position(t_) - span.First(t_) + 1;
    for (int64_t h = 0; h < heads_.query_heads; ++h) {
      Real scale = Norm(heads_.Query(t_, h, false), d);
      scale = Larger(scale, Norm(heads_.Query(t_, h, true), d)) * LargestNorm(h) * heads_.logit_scale;
      if (HasBias()) scale += Absolute(heads_.BiasWeight(h)) * score;
      const Real slack = (scale + Absolute(heads_.SinkLogit(h))) * factor * 2.0;
      bounded_ = bounded_ && ValueOf(slack) <= Numerics::kMaxSlack;
      slack_.push_back(Exp(slack) * (1 + Numerics::SumError(num_keys)));
    }
  }

  // N.
  Real LargestNorm(int64_t h) const {
    const int64_t d = heads_.head_size;
    const AttentionSpan& span = args_.in.span;
    Real norm = Norm(Mean(h), d);
    for (int64_t j = 0; j < args_.codebook.num_stages(); ++j) {
      Real largest{};
      for (int64_t i = 0; i < KeyCodebook::kCodewords; ++i)
        largest = Larger(largest, Norm(Codeword(h, j * KeyCodebook::kCodewords + i), d));
      norm += largest;
    }
    uint8_t distance = 0;
    for (int64_t s = span.First(t_); s <= span.Position(t_); ++s)
      distance = std::max(distance, args_.codes.Distance(s)[KvHead(h)]);
    Real weight = Weight(h)[0];
    for (int64_t c = 1; c < d; ++c) weight = ValueOf(Weight(h)[c]) < ValueOf(weight) ? Weight(h)[c] : weight;
    return norm + Distance(distance) / weight;
  }

  // log Z of what is read, all heads.
  std::vector<double> Denominators() const {
    std::vector<double> log_z;
    for (int64_t h = 0; h < heads_.query_heads; ++h) {
      std::vector<double> logits = {ValueOf(heads_.SinkLogit(h))};
      for (const AttendedKey<Real>& key : keys_) logits.push_back(ValueOf(heads_.Logit(t_, h, key)));
      log_z.push_back(reference::LogSumExp(logits.data(), static_cast<int64_t>(logits.size())));
    }
    return log_z;
  }

  // U / Z_0 of what is not read and below a level.
  double BelowLevel(int64_t h, int level) const {
    double sum = Numerics::kUnderflow;
    for (const UnreadKey<Real>& key : unread_) {
      if (key.level < level) sum += std::exp2(Log2Term(h, key.bounds[static_cast<size_t>(h)]));
    }
    return sum;
  }

  // Whether r · rest <= κ (Z / Z_0 + r · read) for every head, with what is below a level for the rest, or
  // all that is not read.
  bool HoldsFrom(int level) const {
    for (int64_t h = 0; h < heads_.query_heads; ++h) {
      const auto i = static_cast<size_t>(h);
      const double slack = ValueOf(slack_[i]), z = std::exp(denominators_[i] - first_denominators_[i]);
      const double rest = BelowLevel(h, level), all = BelowLevel(h, Numerics::kLevels);
      if (!(slack * rest <= Numerics::Kappa(args_.epsilon) * (z + slack * (all - rest)))) return false;
    }
    return true;
  }
  bool Holds() const { return bounded_ && HoldsFrom(Numerics::kLevels); }

  int NextLevel(int level) const {
    if (!bounded_) return 1;
    const auto has_keys = [&](int from) {
      return std::ranges::any_of(unread_, [&](const UnreadKey<Real>& key) { return key.level >= from; });
    };
    do --level;
    while (level > 1 && !(has_keys(level) && HoldsFrom(level)));
    return level;
  }

  // Whether rounds that read down to a level read kAllShare of what was not selected.
  bool ReadsAllFrom(int level) const {
    const auto rest =
        std::ranges::count_if(unread_, [&](const UnreadKey<Real>& key) { return key.level < level; });
    const double read = static_cast<double>(num_unselected_) - static_cast<double>(rest);
    return read >= Numerics::kAllShare * static_cast<double>(num_unselected_);
  }

  // Writes the output of head h; returns log Z.
  Real Attend(int64_t h) const {
    std::vector<Real> terms = {heads_.SinkLogit(h)};
    for (const AttendedKey<Real>& key : keys_) terms.push_back(heads_.Logit(t_, h, key));
    const Real lse = reference::LogSumExp(terms.data(), static_cast<int64_t>(terms.size()));
    std::vector<Real> probs;
    for (size_t j = 0; j < keys_.size(); ++j) probs.push_back(heads_.RoundedWeight(Exp(terms[j + 1] - lse)));
    reference::WeightedValues(heads_, h, keys_, probs,
                              args_.out.template row<Real>(t_) + heads_.QueryOffset(h));
    return lse;
  }

  Real MissedMass(int64_t h, const Real& lse) const {
    Real sum = Constant<Real>(Numerics::kUnderflow);
    for (const UnreadKey<Real>& key : unread_) sum += Exp(key.bounds[static_cast<size_t>(h)] - lse);
    const Real missed = slack_[static_cast<size_t>(h)] * sum;
    return missed / (missed + 1.0);
  }

  const GuaranteedAttentionArgs& args_;
  AttentionHeads<Real> heads_;
  int64_t t_;
  int64_t first_far_;
  std::vector<AttendedKey<Real>> keys_;     // What is read; far keys have a column.
  std::vector<double> first_denominators_;  // [query_heads]: log Z_0
  std::vector<double> denominators_;        // [query_heads]: log Z
  std::vector<UnreadKey<Real>> unread_;
  size_t num_unselected_ = 0;  // Unread ones before the first round.
  std::vector<Real> slack_;    // [query_heads]: r
  bool bounded_ = true;        // No slack is beyond kMaxSlack.
};

}  // namespace

template <class Real>
void ReferenceOps<Real>::GuaranteedAttention(const GuaranteedAttentionArgs& args) {
  for (int64_t t = 0; t < args.in.q.dim(0); ++t) GuaranteedQuery<Real>(args, t).Run();
}

template void ReferenceOps<double>::GuaranteedAttention(const GuaranteedAttentionArgs&);
template void ReferenceOps<Tracked>::GuaranteedAttention(const GuaranteedAttentionArgs&);

}  // namespace sluice
