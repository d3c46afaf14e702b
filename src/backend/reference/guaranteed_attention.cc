// Attention with a bound on what it did not read; formulas in ops/guaranteed_attention.h. Which blocks are
// read is decided in float64; outputs and the final bound are tracked.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <set>

#include "backend/reference/attention_math.h"
#include "backend/reference/reference_ops.h"

namespace sluice {
namespace {

using reference::AttendedKey;
using reference::AttentionHeads;
using Numerics = GuaranteeNumerics;
constexpr int64_t kBlock = KeyBlockView::kBlock;

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

// A block that a query has not read.
template <class Real>
struct UnreadBlock {
  std::vector<int64_t> keys;    // Far keys of the block that are not selected.
  std::vector<Real> log_terms;  // [query_heads]: log n + B
};

// One query's decisions.
template <class Real>
class GuaranteedQuery {
 public:
  GuaranteedQuery(const GuaranteedAttentionArgs& args, int64_t t)
      : args_(args), heads_(args.in), t_(t), far_(args.in.span, t) {
    keys_ = reference::WindowAndSinks<Real>(args.in.span, t);
    reference::AppendCandidates(args.candidates, t, args.candidates.dim(1), keys_);
    std::set<int64_t> selected;
    for (AttendedKey<Real>& key : keys_) {
      if (key.column < 0) continue;
      selected.insert(key.key);
      key.column = BiasColumn(key.key);
    }
    for (int64_t s = far_.end_key; s < args.in.span.WindowBegin(t); ++s) {
      if (!selected.contains(s)) keys_.push_back({.key = s, .column = BiasColumn(s)});
    }
    for (int64_t b = far_.first_block; b < far_.end_block; ++b) {
      UnreadBlock<Real> block;
      for (int64_t s = std::max(far_.first_key, b * kBlock); s < (b + 1) * kBlock; ++s) {
        if (!selected.contains(s)) block.keys.push_back(s);
      }
      if (block.keys.empty()) continue;
      for (int64_t h = 0; h < heads_.query_heads; ++h) {
        const Real count = Constant<Real>(static_cast<double>(block.keys.size()));
        block.log_terms.push_back(Bound(h, b) + Log(count));
      }
      unread_.push_back(std::move(block));
    }
    num_blocks_ = unread_.size();
    FindSlack();
  }

  void Run() {
    while (!unread_.empty()) {
      const std::vector<double> log_z = LogDenominators();
      const std::vector<int64_t> open = OpenHeads(log_z);
      if (open.empty()) break;
      ReadRound(log_z, open);
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
  int64_t BiasColumn(int64_t s) const { return s - far_.first_key; }
  bool HasBias() const { return args_.in.bias.scores.present(); }
  Real Bias(int64_t h, int64_t s) const { return heads_.BiasWeight(h) * Score(s); }
  Real Score(int64_t s) const { return args_.in.bias.scores.template row<Real>(t_)[BiasColumn(s)]; }

  // Of every far key of block b.
  Real Bound(int64_t h, int64_t b) const {
    const int64_t d = heads_.head_size;
    const int64_t g = h / heads_.heads_per_kv;
    const Real* q = heads_.Query(t_, h, false);
    const uint16_t* bits = args_.blocks.Centre(b) + heads_.KvOffset(h);
    std::vector<Real> centre;
    for (int64_t c = 0; c < d; ++c) centre.push_back(Real{FloatFromBF16(bits[c])});
    const Real reach = Norm(q, d) * args_.blocks.template Radius<Real>(b)[g];
    Real bound = (reference::Dot<Real>(q, centre.data(), d) + reach) * heads_.logit_scale;
    if (!HasBias()) return bound;
    Real largest = Bias(h, std::max(far_.first_key, b * kBlock));
    for (int64_t s = std::max(far_.first_key, b * kBlock); s < (b + 1) * kBlock; ++s)
      largest = Larger(largest, Bias(h, s));
    return bound + largest;
  }

  // ρ of every head.
  void FindSlack() {
    const int64_t d = heads_.head_size;
    const AttentionSpan& span = args_.in.span;
    Real score{};
    if (HasBias()) {
      for (int64_t s = span.SinksEnd(t_); s < span.WindowBegin(t_); ++s)
        score = Larger(score, Absolute(Score(s)));
    }
    const Real factor = Constant<Real>(Numerics::LogitError(d));
    for (int64_t h = 0; h < heads_.query_heads; ++h) {
      Real norm{};
      for (int64_t b = far_.first_block; b < far_.end_block; ++b)
        norm = Larger(norm, args_.blocks.template Norm<Real>(b)[h / heads_.heads_per_kv]);
      for (const AttendedKey<Real>& key : keys_) {
        if (key.rotated || key.key < far_.first_key || key.key >= far_.end_key)
          norm = Larger(norm, Norm(heads_.Key(key.key, h, key.rotated), d));
      }
      Real scale = Norm(heads_.Query(t_, h, false), d);
      scale = Larger(scale, Norm(heads_.Query(t_, h, true), d)) * norm * heads_.logit_scale;
      if (HasBias()) scale += Absolute(heads_.BiasWeight(h)) * score;
      const Real slack = (scale + Absolute(heads_.SinkLogit(h))) * factor * 2.0;
      const int64_t num_keys = span.Position(t_) - span.First(t_) + 1;
      bounded_ = bounded_ && ValueOf(slack) <= Numerics::kMaxSlack;
      rho_.push_back(Exp(slack) * (1 + Numerics::SumError(num_keys)));
    }
  }

  // log Z of what is read, all heads.
  std::vector<double> LogDenominators() const {
    std::vector<double> log_z;
    for (int64_t h = 0; h < heads_.query_heads; ++h) {
      std::vector<double> logits = {ValueOf(heads_.SinkLogit(h))};
      for (const AttendedKey<Real>& key : keys_) logits.push_back(ValueOf(heads_.Logit(t_, h, key)));
      log_z.push_back(reference::LogSumExp(logits.data(), static_cast<int64_t>(logits.size())));
    }
    return log_z;
  }

  // n exp(B) / Z of one block.
  static double Term(const UnreadBlock<Real>& block, int64_t h, const std::vector<double>& log_z) {
    const double exponent = ValueOf(block.log_terms[static_cast<size_t>(h)]) - log_z[static_cast<size_t>(h)];
    const double largest = Numerics::kMaxTermLog2 * std::numbers::ln2;
    return exponent <= largest ? std::exp(exponent) : std::exp(largest);  // NaN: the largest.
  }

  std::vector<int64_t> OpenHeads(const std::vector<double>& log_z) const {
    std::vector<int64_t> open;
    for (int64_t h = 0; h < heads_.query_heads; ++h) {
      double sum = Numerics::kUnderflow;
      for (const UnreadBlock<Real>& block : unread_) sum += Term(block, h, log_z);
      const double rho = ValueOf(rho_[static_cast<size_t>(h)]);
      if (!bounded_ || !(rho * sum <= Numerics::Kappa(args_.epsilon))) open.push_back(h);
    }
    return open;
  }

  void ReadRound(const std::vector<double>& log_z, const std::vector<int64_t>& open) {
    const auto priority = [&](const UnreadBlock<Real>& block) {
      double largest = -std::numeric_limits<double>::infinity();
      for (const int64_t h : open) largest = std::max(largest, Term(block, h, log_z));
      return largest;
    };
    std::stable_sort(unread_.begin(), unread_.end(),
                     [&](const auto& a, const auto& b) { return priority(a) > priority(b); });
    size_t count = 1;
    const size_t least = (num_blocks_ - unread_.size()) / static_cast<size_t>(Numerics::kRoundShare);
    while (count < unread_.size() && !(bounded_ && MayClose(count, log_z, open))) ++count;
    count = std::min(unread_.size(), std::max(count, least));
    for (size_t i = 0; i < count; ++i) {
      for (const int64_t s : unread_[i].keys) keys_.push_back({.key = s, .column = BiasColumn(s)});
    }
    unread_.erase(unread_.begin(), unread_.begin() + static_cast<std::ptrdiff_t>(count));
    const auto first_key = [](const UnreadBlock<Real>& block) { return block.keys.front(); };
    std::ranges::sort(unread_, {}, first_key);
  }

  // Whether reading the first `count` blocks could close every open head.
  bool MayClose(size_t count, const std::vector<double>& log_z, const std::vector<int64_t>& open) const {
    return std::ranges::all_of(open, [&](int64_t h) {
      double read = 0, rest = Numerics::kUnderflow;
      for (size_t i = 0; i < unread_.size(); ++i) (i < count ? read : rest) += Term(unread_[i], h, log_z);
      const double rho = ValueOf(rho_[static_cast<size_t>(h)]);
      return rho * rest <= Numerics::Kappa(args_.epsilon) * (1 + rho * read);
    });
  }

  // Writes the output of head h; returns log Z.
  Real Attend(int64_t h) const {
    std::vector<Real> terms = {heads_.SinkLogit(h)};
    for (const AttendedKey<Real>& key : keys_) terms.push_back(heads_.Logit(t_, h, key));
    const Real lse = reference::LogSumExp(terms.data(), static_cast<int64_t>(terms.size()));
    std::vector<Real> probs;
    for (size_t j = 0; j < keys_.size(); ++j) probs.push_back(Exp(terms[j + 1] - lse));
    reference::WeightedValues(heads_, h, keys_, probs,
                              args_.out.template row<Real>(t_) + heads_.QueryOffset(h));
    return lse;
  }

  Real MissedMass(int64_t h, const Real& lse) const {
    Real sum = Constant<Real>(Numerics::kUnderflow);
    for (const UnreadBlock<Real>& block : unread_) sum += Exp(block.log_terms[static_cast<size_t>(h)] - lse);
    const Real missed = rho_[static_cast<size_t>(h)] * sum;
    return missed / (missed + 1.0);
  }

  const GuaranteedAttentionArgs& args_;
  AttentionHeads<Real> heads_;
  int64_t t_;
  FarBlocks far_;
  std::vector<AttendedKey<Real>> keys_;  // What is read; far keys have a column.
  std::vector<UnreadBlock<Real>> unread_;
  size_t num_blocks_ = 0;  // Unread ones before the first round.
  std::vector<Real> rho_;  // [query_heads]
  bool bounded_ = true;    // No slack is beyond kMaxSlack.
};

}  // namespace

template <class Real>
void ReferenceOps<Real>::SummarizeKeys(const SummarizeKeysArgs& args) {
  const int64_t kv_heads = args.k.dim(1), d = args.k.dim(2);
  const reference::DecodedRows<Real> keys(args.k, args.first_block * kBlock, args.end_block * kBlock);
  const auto widened = [](const Real& x) { return x * (1 + Numerics::kMargin) + Numerics::kSmallest; };
  for (int64_t block = args.first_block; block < args.end_block; ++block) {
    for (int64_t g = 0; g < kv_heads; ++g) {
      const auto key = [&](int64_t j) { return keys.row(block * kBlock + j) + g * d; };
      std::vector<Real> centre(static_cast<size_t>(d));
      for (int64_t c = 0; c < d; ++c) {
        Real sum{};
        for (int64_t j = 0; j < kBlock; ++j) sum += key(j)[c];
        const uint16_t bits = BF16FromFloat(static_cast<float>(ValueOf(sum / static_cast<double>(kBlock))));
        args.blocks.Centre(block)[g * d + c] = bits;
        centre[static_cast<size_t>(c)] = Real{FloatFromBF16(bits)};
      }
      Real radius{}, norm{};
      for (int64_t j = 0; j < kBlock; ++j) {
        std::vector<Real> difference(static_cast<size_t>(d));
        for (int64_t c = 0; c < d; ++c)
          difference[static_cast<size_t>(c)] = key(j)[c] - centre[static_cast<size_t>(c)];
        radius = Larger(radius, Norm(difference.data(), d));
        norm = Larger(norm, Norm<Real>(key(j), d));
      }
      args.blocks.Radius<Real>(block)[g] = widened(radius);
      args.blocks.Norm<Real>(block)[g] = widened(norm);
    }
  }
}

template <class Real>
void ReferenceOps<Real>::GuaranteedAttention(const GuaranteedAttentionArgs& args) {
  for (int64_t t = 0; t < args.in.q.dim(0); ++t) GuaranteedQuery<Real>(args, t).Run();
}

template void ReferenceOps<double>::SummarizeKeys(const SummarizeKeysArgs&);
template void ReferenceOps<Tracked>::SummarizeKeys(const SummarizeKeysArgs&);
template void ReferenceOps<double>::GuaranteedAttention(const GuaranteedAttentionArgs&);
template void ReferenceOps<Tracked>::GuaranteedAttention(const GuaranteedAttentionArgs&);

}  // namespace sluice
