// What full, sparse and surrogate attention share: the list of keys a query attends to, the softmax
// over it, and the gradient of both. Formulas in ops/attention.h and ops/sparse_attention.h.
#pragma once

#include <cmath>
#include <vector>

#include "backend/reference/decoded_rows.h"
#include "backend/reference/loops.h"
#include "ops/sparse_attention.h"

namespace sluice::reference {

// One key in a query's list. `weight` is the surrogate's m; it comes as sigmoid(margin).
template <class Real>
struct AttendedKey {
  int64_t key = 0;
  bool rotated = false;
  int64_t column = -1;  // Of a far key: that of the candidates, or of the bias; -1: window or sink.
  bool gated = false;   // Whether m is a function of the score; otherwise m = 1.
  Real margin{};        // (score − threshold) / temperature, where gated
};

// Window and sinks of query t.
template <class Real>
std::vector<AttendedKey<Real>> WindowAndSinks(const AttentionSpan& span, int64_t t) {
  std::vector<AttendedKey<Real>> keys;
  for (int64_t s = span.First(t); s < span.SinksEnd(t); ++s) keys.push_back({.key = s});
  for (int64_t s = span.WindowBegin(t); s <= span.Position(t); ++s)
    keys.push_back({.key = s, .rotated = true});
  return keys;
}

// Appends the candidates of query t in columns [0, num_columns), ungated.
template <class Real>
void AppendCandidates(const TensorView& candidates, int64_t t, int64_t num_columns,
                      std::vector<AttendedKey<Real>>& keys) {
  const int32_t* row = candidates.row<int32_t>(t);
  for (int64_t j = 0; j < num_columns; ++j) {
    if (row[j] >= 0) keys.push_back({.key = row[j], .column = j});
  }
}

// Shapes and pointers of AttentionInputs.
template <class Real>
struct AttentionHeads {
  // `may_round`: a backend may multiply keys and values in bfloat16 with queries and weights rounded to it.
  explicit AttentionHeads(const AttentionInputs& inputs, bool may_round = false)
      : in(inputs),
        query_heads(inputs.q.dim(1)),
        head_size(inputs.q.dim(2)),
        heads_per_kv(inputs.q.dim(1) / inputs.k.dim(1)),
        logit_scale(1 / std::sqrt(static_cast<double>(inputs.q.dim(2)))),
        rounds(may_round && inputs.k.dtype() == DType::kBF16),
        keys(inputs.k),
        values(inputs.v) {}

  // Offset of query head h in a row of q, and of the key/value head it reads in a row of k or v.
  int64_t QueryOffset(int64_t h) const { return h * head_size; }
  int64_t KvOffset(int64_t h) const { return h / heads_per_kv * head_size; }

  const Real* Query(int64_t t, int64_t h, bool rotated) const {
    return (rotated ? in.q_rot : in.q).template row<Real>(t) + QueryOffset(h);
  }
  const Real* Key(int64_t s, int64_t h, bool rotated) const {
    const Real* row = rotated ? in.k_rot.row<Real>(s - in.k_rot_begin) : keys.row(s);
    return row + KvOffset(h);
  }
  const Real* Value(int64_t s, int64_t h) const { return values.row(s) + KvOffset(h); }
  Real SinkLogit(int64_t h) const { return in.sink_logit.data<Real>()[h]; }
  Real Logit(int64_t t, int64_t h, const AttendedKey<Real>& key) const {
    const Real* query = Query(t, h, key.rotated);
    const Real* row = Key(key.key, h, key.rotated);
    Real dot{};
    for (int64_t c = 0; c < head_size; ++c) dot += Rounded(query[c]) * Rounded(row[c]);
    const Real logit = dot * logit_scale;
    return HasBias(key) ? logit + BiasWeight(h) * BiasScore(t, key) : logit;
  }
  // What rounding does to x is an error.
  Real Rounded(const Real& x) const {
    if constexpr (std::same_as<Real, Tracked>) {
      const auto single = static_cast<float>(x.value);
      if (rounds && std::isfinite(single)) {
        const double error = std::abs(x.value - FloatFromBF16(BF16FromFloat(single)));
        return {x.value, x.magnitude + error / kTrackedEps};
      }
    }
    return x;
  }
  // Of a weight, which is not certain to the bit, it may be half of a step whatever its value.
  Real RoundedWeight(const Real& weight) const {
    if (!rounds) return weight;
    const double error = ValueOf(weight) * 0x1p-8;
    return WithMagnitude<Real>(ValueOf(weight), MagnitudeOf(weight) + error / kTrackedEps);
  }

  bool HasBias(const AttendedKey<Real>& key) const { return in.bias.scores.present() && key.column >= 0; }
  Real BiasWeight(int64_t h) const { return in.bias.weight.template data<Real>()[h]; }
  Real BiasScore(int64_t t, const AttendedKey<Real>& key) const {
    return in.bias.scores.template row<Real>(t)[key.column];
  }

  const AttentionInputs& in;
  int64_t query_heads;
  int64_t head_size;
  int64_t heads_per_kv;
  double logit_scale;
  bool rounds;
  DecodedRows<Real> keys;
  DecodedRows<Real> values;
};

// The softmax of one query head: p_j = m_j e^{l_j} / (Σ m e^l + e^{sink_logit}).
template <class Real>
struct AttentionSoftmax {
  std::vector<Real> probs;  // One per attended key.
  Real sink_prob{};
  Real lse{};  // Log of the denominator.
};

template <class Real>
AttentionSoftmax<Real> Softmax(const AttentionHeads<Real>& heads, int64_t t, int64_t h,
                               const std::vector<AttendedKey<Real>>& keys) {
  std::vector<Real> logits;
  const Real sink_logit = heads.SinkLogit(h);
  double largest = ValueOf(sink_logit);
  for (const auto& key : keys) {
    logits.push_back(heads.Logit(t, h, key));
    if (ValueOf(logits.back()) > largest) largest = ValueOf(logits.back());
  }
  // The maximum enters as an exact constant: the result does not depend on it.
  const Real shift = WithMagnitude<Real>(largest, 0);
  const Real sink_weight = Exp(sink_logit - shift);
  AttentionSoftmax<Real> result;
  Real denominator = sink_weight;
  for (size_t j = 0; j < keys.size(); ++j) {
    Real weight = heads.RoundedWeight(Exp(logits[j] - shift));
    if (keys[j].gated) weight = Sigmoid(keys[j].margin) * weight;
    result.probs.push_back(weight);
    denominator += weight;
  }
  for (Real& p : result.probs) p = p / denominator;
  result.sink_prob = sink_weight / denominator;
  result.lse = shift + Log(denominator);
  return result;
}

// out[t, h] = Σ_j p_j v_j
template <class Real>
void WeightedValues(const AttentionHeads<Real>& heads, int64_t h, const std::vector<AttendedKey<Real>>& keys,
                    const std::vector<Real>& probs, Real* out) {
  for (int64_t c = 0; c < heads.head_size; ++c) out[c] = Real{};
  for (size_t j = 0; j < keys.size(); ++j) {
    AddScaled(out, probs[j], heads.Value(keys[j].key, h), heads.head_size);
  }
}

// Output of query t over `keys`; returns the softmax of each head.
template <class Real>
std::vector<AttentionSoftmax<Real>> AttendQuery(const AttentionHeads<Real>& heads, int64_t t,
                                                const std::vector<AttendedKey<Real>>& keys,
                                                const TensorView& out) {
  std::vector<AttentionSoftmax<Real>> result;
  for (int64_t h = 0; h < heads.query_heads; ++h) {
    result.push_back(Softmax(heads, t, h, keys));
    WeightedValues(heads, h, keys, result.back().probs, out.row<Real>(t) + heads.QueryOffset(h));
  }
  return result;
}

template <class Real>
void ZeroInputGrads(const AttentionInputGrads& grads) {
  for (const TensorView& view : {grads.dq, grads.dq_rot, grads.dk, grads.dk_rot, grads.dv})
    FillZero<Real>(view);
}

// Adds query t's part of every gradient. With δ = ⟨dout, o⟩ and a_j = ⟨dout, v_j⟩ per head:
//   dl_j = p_j (a_j − δ);  dsink_logit = −p_sink δ;  dv_j = p_j dout
//   dscore_j = (1/T)(1 − m_j) dl_j
// `dscores` is the row of candidate scores' gradients; null where no key is gated.
template <class Real>
void AttendQueryGrad(const AttentionHeads<Real>& heads, int64_t t, const std::vector<AttendedKey<Real>>& keys,
                     double temperature, const TensorView& dout_view, const AttentionInputGrads& grads,
                     Real* dscores) {
  const int64_t d = heads.head_size;
  for (int64_t h = 0; h < heads.query_heads; ++h) {
    const AttentionSoftmax<Real> softmax = Softmax(heads, t, h, keys);
    const Real* dout = dout_view.row<Real>(t) + heads.QueryOffset(h);
    std::vector<Real> out(d);
    WeightedValues(heads, h, keys, softmax.probs, out.data());
    const Real delta = Dot<Real>(dout, out.data(), d);
    grads.dsink_logit_acc.data<Real>()[h] -= softmax.sink_prob * delta;
    for (size_t j = 0; j < keys.size(); ++j) {
      const AttendedKey<Real>& key = keys[j];
      const Real dlogit = softmax.probs[j] * (Dot(dout, heads.Value(key.key, h), d) - delta);
      const Real scaled = dlogit * heads.logit_scale;
      const TensorView& dq = key.rotated ? grads.dq_rot : grads.dq;
      const TensorView& dk = key.rotated ? grads.dk_rot : grads.dk;
      AddScaled(dq.row<Real>(t) + heads.QueryOffset(h), scaled, heads.Key(key.key, h, key.rotated), d);
      AddScaled(dk.row<Real>(key.key) + heads.KvOffset(h), scaled, heads.Query(t, h, key.rotated), d);
      AddScaled(grads.dv.row<Real>(key.key) + heads.KvOffset(h), softmax.probs[j], dout, d);
      if (heads.HasBias(key)) {
        grads.dbias_scores_acc.row<Real>(t)[key.column] += heads.BiasWeight(h) * dlogit;
        grads.dbias_weight_acc.data<Real>()[h] += heads.BiasScore(t, key) * dlogit;
      }
      if (key.gated) dscores[key.column] += OneMinusSigmoid(key.margin) * dlogit / temperature;
    }
  }
}

}  // namespace sluice::reference
