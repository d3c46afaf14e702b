// Attention over window, sinks and chosen keys, which are read where they lie: the work per query
// grows with the number of its keys, never with the context. The list of a query is
//   sinks, chosen candidates, window, and then (for gate_target) the runners-up
// and every sum over it runs in that order, so a query's result depends on nothing but its own list.
//
// Gradient of the surrogate, with p̃ = m e^logit / denominator and D[h] = Σ_j p̃_j ⟨dout, v_j⟩:
//   dlogit = p̃ (⟨dout, v⟩ − D);  dscore = (1 − m) / T · Σ_h dlogit;  the rest as in attention.cc
// A bias is kept per listed key, 0 for sinks and the window.
#include "ops/sparse_attention.h"

#include <cmath>
#include <vector>

#include "backend/cpu/bfloat16_attention.h"
#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/head_plan.h"
#include "backend/cpu/key_list.h"
#include "base/threads.h"

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/sparse_attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
#include "backend/cpu/head_kernels-inl.h"
#include "backend/cpu/key_rows-inl.h"
// clang-format on

#ifndef SLUICE_BACKEND_CPU_SPARSE_ATTENTION_ONCE
#define SLUICE_BACKEND_CPU_SPARSE_ATTENTION_ONCE
namespace sluice {

constexpr int64_t kTileTokens = 16;
constexpr int64_t kGradPartitions = 8;

// Rows of keys or values that the next query will read, to be fetched while this one is computed.
struct NextRows {
  const KeyRows& rows;
  const int32_t* key = nullptr;  // -1 where absent.
  int64_t count = 0;
  int64_t offset = 0;  // Bytes of a row: from here,
  int64_t size = 0;    // so many.

  // Those of one key/value head, or of all.
  NextRows(const KeyRows& x, const int32_t* keys, int64_t num_keys, int64_t first_head, int64_t heads)
      : rows(x), key(keys), count(num_keys) {
    const int64_t head_bytes = x.dim(2) * static_cast<int64_t>(SizeOf(x.dtype()));
    offset = first_head * head_bytes;
    size = heads * head_bytes;
  }
  // Always inlined: GCC drops calls of a function that does nothing but prefetch.
  HWY_INLINE void Fetch(int64_t i) const {
    if (i >= count || key[i] < 0) return;
    const std::byte* row = rows.raw_row(key[i]) + offset;
    for (int64_t byte = 0; byte < size; byte += 64) __builtin_prefetch(row + byte, 0, 2);
    if (rows.dtype() == DType::kI8) __builtin_prefetch(rows.raw_scale(key[i]), 0, 2);
  }
};

// What one partition of SparseAttentionGrad adds to; the bases are of key 0.
struct SparseGradSums {
  float* dk;
  float* dk_rot;
  float* dv;
  float* dsink_logit;   // [query_heads]
  float* dbias_weight;  // [query_heads]
};

}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// Rows anywhere; each asked for starts the fetch of one of the next query's.
struct FetchingRows {
  const float* const* rows;
  const NextRows* next;
  HWY_INLINE const float* operator()(int64_t j) const {
    next->Fetch(j);
    return rows[j];
  }
};

// Memory of one task, for the query and head group at hand.
struct SparseScratch {
  KeyList list;
  std::vector<const float*> keys;  // Row of each listed key: rotated in the window.
  std::vector<const float*> values;
  int64_t gathered_head = -1;  // The key/value head whose rows these are; -1: none of this query.
  int64_t window_begin = 0;    // First key of the tile's windows,
  int64_t window_rows = 0;     // and how many there are.
  FloatScratch floats;
  float *wide_keys, *wide_values;  // [list, channels], where the rows are not float32.
  float* wide_window;              // [kv_heads, window_rows, channels]: values, widened once for the tile.
  float *by_head, *by_channel, *rot_by_head, *rot_by_channel, *dout_by_head, *dout_by_channel;
  float *acc, *acc_rot;     // [8, padded]
  float *logits, *dlogits;  // [list + 16, 8]
  float* gate;              // [list + 16]: m_j
  float *bias, *dbias;      // [list + 16]: the score that a key's logits are raised by, and its gradient
  float* bias_weight;       // [8]

  SparseScratch(const AttentionInputs& in, int64_t max_list) : SparseScratch(in, in.q.dim(2), max_list) {}
  void NewList(const AttentionSpan& span, const TensorView& candidates, int64_t t, int64_t num_chosen,
               bool with_rest) {
    list.Build(span, candidates, t, num_chosen, with_rest);
    gathered_head = -1;
  }

 private:
  SparseScratch(const AttentionInputs& in, int64_t channels, int64_t max_list)
      : list(max_list),
        keys(static_cast<size_t>(max_list)),
        values(static_cast<size_t>(max_list)),
        floats(8 * kHeadLanes * PaddedChannels(channels) + (2 * kHeadLanes + 3) * (max_list + 32) + 16 +
               2 * WideFloats(in, max_list) + WideFloats(in, in.k.dim(1) * TileWindow(in))) {
    wide_keys = floats.Take(WideFloats(in, max_list));
    wide_values = floats.Take(WideFloats(in, max_list));
    wide_window = floats.Take(WideFloats(in, in.k.dim(1) * TileWindow(in)));
    const int64_t rows = kHeadLanes * PaddedChannels(channels);
    by_head = floats.Take(rows);
    by_channel = floats.Take(rows);
    rot_by_head = floats.Take(rows);
    rot_by_channel = floats.Take(rows);
    dout_by_head = floats.Take(rows);
    dout_by_channel = floats.Take(rows);
    acc = floats.Take(rows);
    acc_rot = floats.Take(rows);
    logits = floats.Take((max_list + 16) * kHeadLanes);
    dlogits = floats.Take((max_list + 16) * kHeadLanes);
    gate = floats.Take(max_list + 16);
    bias = floats.Take(max_list + 16);
    dbias = floats.Take(max_list + 16);
    bias_weight = floats.Take(kHeadLanes);
  }
  static int64_t WideFloats(const AttentionInputs& in, int64_t rows) {
    return in.k.dtype() == DType::kF32 ? 0 : (rows * in.q.dim(2) + 15) / 16 * 16;
  }
  static int64_t TileWindow(const AttentionInputs& in) { return in.span.window + kTileTokens; }
};

HWY_INLINE int64_t MaxList(const AttentionInputs& in, const TensorView& candidates) {
  return in.span.num_sinks + in.span.window + candidates.dim(1);
}

// Adds the bias of the listed candidates to their logits.
HWY_INLINE void AddListBias(const FarBias& bias, const HeadGroup& group, int64_t t, SparseScratch& s) {
  const float* scores = bias.scores.row<float>(t);
  const int64_t n = s.list.size();
  for (int64_t j = 0; j < n; ++j) {
    const int32_t col = s.list.column[static_cast<size_t>(j)];
    s.bias[j] = col < 0 ? 0.0f : scores[col];
  }
  LoadBiasWeight(bias, group, kLog2E, s.bias_weight);
  AddHeadBias<kHeadLanes>(s.bias, n, s.bias_weight, s.logits);
}

// The values of the windows of queries [begin, end): neighbours share most of them.
HWY_INLINE void WidenWindow(const AttentionInputs& in, int64_t begin, int64_t end, SparseScratch& s) {
  if (in.v.dtype() == DType::kF32 || begin == end) return;
  s.window_begin = in.span.WindowBegin(begin);
  s.window_rows = in.span.Position(end - 1) + 1 - s.window_begin;
  const int64_t channels = in.q.dim(2);
  for (int64_t head = 0; head < in.v.dim(1); ++head) {
    for (int64_t i = 0; i < s.window_rows; ++i)
      WidenRow(in.v, s.window_begin + i, head, s.wide_window + (head * s.window_rows + i) * channels);
  }
}

// The rows of the list for one key/value head: in place, or gathered as float32.
HWY_INLINE void GatherRows(const AttentionInputs& in, int64_t kv_head, SparseScratch& s) {
  if (s.gathered_head == kv_head) return;
  s.gathered_head = kv_head;
  const int64_t channels = in.q.dim(2);
  const auto gather = [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t j = begin; j < end; ++j) {
      const auto at = static_cast<size_t>(j);
      s.keys[at] = FloatRow(in.k, s.list.key[at], kv_head, s.wide_keys + j * channels);
      s.values[at] = FloatRow(in.v, s.list.key[at], kv_head, s.wide_values + j * channels);
    }
  };
  gather(0, s.list.num_far);
  for (int64_t j = s.list.num_far; j < s.list.num_hard; ++j) {
    const auto at = static_cast<size_t>(j);
    const int64_t key = s.list.key[at];
    s.keys[at] = in.k_rot.row<float>(key - in.k_rot_begin) + kv_head * channels;
    s.values[at] = in.v.dtype() == DType::kF32
                       ? in.v.row<float>(key) + kv_head * channels
                       : s.wide_window + (kv_head * s.window_rows + key - s.window_begin) * channels;
  }
  gather(s.list.num_hard, s.list.size());
}

// Transposed queries and logits (in units of log 2) of the list. The keys and values of the candidates in
// `next` [next_count] (the next query's) are fetched meanwhile.
HWY_INLINE void ListLogits(const AttentionInputs& in, const HeadGroup& group, int64_t t, const int32_t* next,
                           int64_t next_count, SparseScratch& s) {
  const int64_t channels = in.q.dim(2);
  const int64_t n = s.list.size();
  GatherRows(in, group.kv_head, s);
  const float scale = static_cast<float>(kLog2E / std::sqrt(static_cast<double>(channels)));
  const int64_t head_offset = group.first_head * channels;
  TransposeHeads<kHeadLanes>(in.q.row<float>(t) + head_offset, group.rows, channels, scale, s.by_channel);
  TransposeHeads<kHeadLanes>(in.q_rot.row<float>(t) + head_offset, group.rows, channels, scale,
                             s.rot_by_channel);
  const int64_t num_far = s.list.num_far;
  const int64_t num_hard = s.list.num_hard;
  const float* const* keys = s.keys.data();
  const NextRows next_keys(in.k, next, next_count, group.kv_head, 1);
  const NextRows next_values(in.v, next, next_count, group.kv_head, 1);
  HeadDots<kHeadLanes>(FetchingRows{keys, &next_keys}, num_far, s.by_channel, channels, s.logits);
  HeadDots<kHeadLanes>(FetchingRows{keys + num_far, &next_values}, num_hard - num_far, s.rot_by_channel,
                       channels, s.logits + num_far * kHeadLanes);
  HeadDots<kHeadLanes>(ListedRows<const float>{keys + num_hard}, n - num_hard, s.by_channel, channels,
                       s.logits + num_hard * kHeadLanes);
  if (in.bias.scores.present()) AddListBias(in.bias, group, t, s);
}

// Starts the fetch of all that a tile's first query selects: no query before it did, and a decoded token is
// a tile of its own.
HWY_INLINE void FetchRows(const AttentionInputs& in, const int32_t* keys, int64_t count) {
  const NextRows next_keys(in.k, keys, count, 0, in.k.dim(1));
  const NextRows next_values(in.v, keys, count, 0, in.k.dim(1));
  for (int64_t i = 0; i < count; ++i) next_keys.Fetch(i);
  for (int64_t i = 0; i < count; ++i) next_values.Fetch(i);
}

// highest[h] = the largest of the first n logits and the sink logit; sum[h] = the sink logit's own term.
HWY_INLINE void StartSoftmax(const float* HWY_RESTRICT sink_logit, int64_t heads,
                             const float* HWY_RESTRICT logits, int64_t n, float* HWY_RESTRICT highest,
                             float* HWY_RESTRICT sum) {
  HWY_ALIGN float sink[kHeadLanes];
  LoadHeadValues(sink_logit, heads, 0.0f, sink);
  for (int64_t h = 0; h < kHeadLanes; ++h) sink[h] *= static_cast<float>(kLog2E);
  std::copy_n(sink, kHeadLanes, highest);
  HeadMax<kHeadLanes>(logits, n, highest);
  std::fill_n(sum, kHeadLanes, 0.0f);
  HeadExp2<kHeadLanes>(sink, 1, highest, sum);
}

// target_row[col] += Σ_h of the candidates' probabilities among all that is listed. The logits of the
// candidates are overwritten. REQUIRES: called before AttendList.
HWY_INLINE void AddGateTarget(const float* HWY_RESTRICT sink_logit, int64_t heads, SparseScratch& s,
                              float* HWY_RESTRICT target_row) {
  const int64_t n = s.list.size();
  HWY_ALIGN float highest[kHeadLanes];
  HWY_ALIGN float sum[kHeadLanes];
  StartSoftmax(sink_logit, heads, s.logits, n, highest, sum);
  std::copy_n(s.logits, n * kHeadLanes, s.dlogits);
  HeadExp2<kHeadLanes>(s.dlogits, n, highest, sum);
  HWY_ALIGN float inverse[kHeadLanes];
  for (int64_t h = 0; h < kHeadLanes; ++h) inverse[h] = h < heads ? 1.0f / sum[h] : 0.0f;
  for (int64_t j = 0; j < n; ++j) {
    const int32_t col = s.list.column[static_cast<size_t>(j)];
    if (col < 0) continue;
    HWY_ALIGN float row[kHeadLanes];
    for (int64_t h = 0; h < kHeadLanes; ++h) row[h] = s.dlogits[j * kHeadLanes + h] * inverse[h];
    target_row[col] += SumHeads(row);
  }
}

// The hard output of one query and head group.
HWY_INLINE void AttendList(const AttentionInputs& in, const HeadGroup& group, SparseScratch& s, float* out) {
  const int64_t channels = in.q.dim(2);
  const float* sink_logit = in.sink_logit.data<float>() + group.first_head;
  const int64_t num_hard = s.list.num_hard;
  HWY_ALIGN float highest[kHeadLanes];
  HWY_ALIGN float sum[kHeadLanes];
  StartSoftmax(sink_logit, group.rows, s.logits, num_hard, highest, sum);
  HeadExp2<kHeadLanes>(s.logits, num_hard, highest, sum);
  std::fill_n(s.acc, kHeadLanes * PaddedChannels(channels), 0.0f);
  WeightedSum<kHeadLanes>(ListedRows<const float>{s.values.data()}, num_hard, s.logits, group.rows, channels,
                          s.acc);
  HWY_ALIGN float inverse[kHeadLanes];
  for (int64_t h = 0; h < kHeadLanes; ++h) inverse[h] = 1.0f / sum[h];
  StoreHeads(s.acc, inverse, group.rows, channels, out + group.first_head * channels);
}

// target_row to sum 1 (or 0); returns its sum before.
HWY_INLINE float NormalizeTarget(float* HWY_RESTRICT target_row, int64_t width) {
  float total = 0;
  for (int64_t col = 0; col < width; ++col) total += target_row[col];
  const float inverse = total > 0 ? 1.0f / total : 0.0f;
  for (int64_t col = 0; col < width; ++col) target_row[col] *= inverse;
  return total;
}

// Queries [begin, end).
void SparseAttentionTile(const SparseAttentionArgs& args, const std::vector<HeadGroup>& groups, int64_t begin,
                         int64_t end) {
  const AttentionInputs& in = args.in;
  const bool wants_gate = args.gate_target.present() || args.gate_mass.present();
  const int64_t width = args.candidates.dim(1);
  SparseScratch scratch(in, MaxList(in, args.candidates));
  std::vector<float> own_target(wants_gate && !args.gate_target.present() ? static_cast<size_t>(width) : 0);
  FetchRows(in, args.candidates.row<int32_t>(begin), args.num_selected);
  WidenWindow(in, begin, end, scratch);
  for (int64_t t = begin; t < end; ++t) {
    scratch.NewList(in.span, args.candidates, t, args.num_selected, wants_gate);
    float* target = args.gate_target.present() ? args.gate_target.row<float>(t) : own_target.data();
    if (wants_gate) std::fill_n(target, width, 0.0f);
    const bool has_next = t + 1 < in.q.dim(0);
    for (const HeadGroup& group : groups) {
      ListLogits(in, group, t, has_next ? args.candidates.row<int32_t>(t + 1) : nullptr, has_next ? width : 0,
                 scratch);
      if (wants_gate) {
        AddGateTarget(in.sink_logit.data<float>() + group.first_head, group.rows, scratch, target);
      }
      AttendList(in, group, scratch, args.out.row<float>(t));
    }
    if (!wants_gate) continue;
    const float total = NormalizeTarget(target, width);
    if (args.gate_mass.present()) {
      args.gate_mass.data<float>()[t] = total / static_cast<float>(in.q.dim(1));
    }
  }
}

// gate[j] = m_j of every listed key.
HWY_INLINE void ListGates(const SurrogateGate& gate, int64_t t, SparseScratch& s) {
  const int64_t n = s.list.size();
  std::fill_n(s.gate, n, 1.0f);
  if (!gate.scores.present()) return;
  const float threshold = gate.threshold.data<float>()[t];
  if (std::isinf(threshold) && threshold < 0) return;
  const float* scores = gate.scores.row<float>(t);
  const float inverse_temperature = static_cast<float>(1.0 / gate.temperature);
  for (int64_t j = 0; j < n; ++j) {
    const int32_t col = s.list.column[static_cast<size_t>(j)];
    if (col < 0) continue;
    s.gate[j] = 1.0f / (1.0f + std::exp((threshold - scores[col]) * inverse_temperature));
  }
}

// logits become p̃ over the list; returns in `sink_prob` what the sink logit takes.
HWY_INLINE void SurrogateSoftmax(const float* sink_logit, int64_t heads, SparseScratch& s,
                                 float* HWY_RESTRICT sink_prob) {
  const LaneTag<kHeadLanes> d;
  const int64_t n = s.list.size();
  HWY_ALIGN float highest[kHeadLanes];
  HWY_ALIGN float sink[kHeadLanes];
  StartSoftmax(sink_logit, heads, s.logits, n, highest, sink);
  for (int64_t part = 0; part < kHeadLanes; part += kLaneStep<kHeadLanes>) {
    const auto m = hn::Load(d, highest + part);
    auto total = hn::Load(d, sink + part);
    for (int64_t j = 0; j < n; ++j) {
      float* row = s.logits + j * kHeadLanes + part;
      const auto p = hn::Mul(hn::Set(d, s.gate[j]), Exp2NonPositive(d, hn::Sub(hn::Load(d, row), m)));
      total = hn::Add(total, p);
      hn::Store(p, d, row);
    }
    const auto inverse = hn::Div(hn::Set(d, 1.0f), total);
    for (int64_t j = 0; j < n; ++j) {
      float* row = s.logits + j * kHeadLanes + part;
      hn::Store(hn::Mul(hn::Load(d, row), inverse), d, row);
    }
    hn::Store(hn::Mul(hn::Load(d, sink + part), inverse), d, sink_prob + part);
  }
}

// õ of queries [begin, end).
void SurrogateAttentionTile(const SurrogateAttentionArgs& args, const std::vector<HeadGroup>& groups,
                            int64_t begin, int64_t end) {
  const AttentionInputs& in = args.in;
  const int64_t channels = in.q.dim(2);
  SparseScratch scratch(in, MaxList(in, args.candidates));
  HWY_ALIGN float sink_prob[kHeadLanes];
  HWY_ALIGN float ones[kHeadLanes];
  std::fill_n(ones, kHeadLanes, 1.0f);
  WidenWindow(in, begin, end, scratch);
  for (int64_t t = begin; t < end; ++t) {
    scratch.NewList(in.span, args.candidates, t, args.candidates.dim(1), false);
    ListGates(args.gate, t, scratch);
    for (const HeadGroup& group : groups) {
      ListLogits(in, group, t, nullptr, 0, scratch);
      SurrogateSoftmax(in.sink_logit.data<float>() + group.first_head, group.rows, scratch, sink_prob);
      std::fill_n(scratch.acc, kHeadLanes * PaddedChannels(channels), 0.0f);
      WeightedSum<kHeadLanes>(ListedRows<const float>{scratch.values.data()}, scratch.list.size(),
                              scratch.logits, group.rows, channels, scratch.acc);
      StoreHeads(scratch.acc, ones, group.rows, channels,
                 args.out.row<float>(t) + group.first_head * channels);
    }
  }
}

// dlogits = probs · (dlogits − D), D = Σ_j probs dlogits, with dlogits = ⟨dout, v⟩ before.
HWY_INLINE void ListSoftmaxGrad(int64_t n, const float* HWY_RESTRICT probs, float* HWY_RESTRICT dlogits,
                                float* HWY_RESTRICT dot) {
  const LaneTag<kHeadLanes> d;
  for (int64_t part = 0; part < kHeadLanes; part += kLaneStep<kHeadLanes>) {
    auto total = hn::Zero(d);
    for (int64_t j = 0; j < n; ++j) {
      const int64_t at = j * kHeadLanes + part;
      total = hn::MulAdd(hn::Load(d, probs + at), hn::Load(d, dlogits + at), total);
    }
    for (int64_t j = 0; j < n; ++j) {
      const int64_t at = j * kHeadLanes + part;
      hn::Store(hn::Mul(hn::Load(d, probs + at), hn::Sub(hn::Load(d, dlogits + at), total)), d, dlogits + at);
    }
    hn::Store(total, d, dot + part);
  }
}

// dscores_acc of one query, from the dlogits of one head group.
HWY_INLINE void AddScoreGrads(const SparseAttentionGradArgs& args, int64_t t, const SparseScratch& s) {
  if (!args.gate.scores.present()) return;
  float* dscores = args.dscores_acc.row<float>(t);
  const float inverse_temperature = static_cast<float>(1.0 / args.gate.temperature);
  for (int64_t j = 0; j < s.list.size(); ++j) {
    const int32_t col = s.list.column[static_cast<size_t>(j)];
    if (col < 0 || s.gate[j] == 1.0f) continue;
    dscores[col] += (1.0f - s.gate[j]) * inverse_temperature * SumHeads(s.dlogits + j * kHeadLanes);
  }
}

// The bias's gradients of one query, from the dlogits of one head group.
HWY_INLINE void AddBiasGrads(const SparseAttentionGradArgs& args, const HeadGroup& group, int64_t t,
                             float* dbias_weight, SparseScratch& s) {
  if (!args.in.bias.scores.present()) return;
  const int64_t n = s.list.size();
  LoadBiasWeight(args.in.bias, group, 1, s.bias_weight);
  HWY_ALIGN float dweight[kHeadLanes] = {};
  std::fill_n(s.dbias, n, 0.0f);
  HeadBiasGrad<kHeadLanes>(s.bias, n, s.bias_weight, s.dlogits, s.dbias, dweight);
  float* dscores = args.grads.dbias_scores_acc.row<float>(t);
  for (int64_t j = 0; j < n; ++j) {
    const int32_t col = s.list.column[static_cast<size_t>(j)];
    if (col >= 0) dscores[col] += s.dbias[j];
  }
  for (int64_t h = 0; h < group.rows; ++h) dbias_weight[group.first_head + h] += dweight[h];
}

HWY_INLINE void GradList(const SparseAttentionGradArgs& args, const HeadGroup& group, int64_t t,
                         const SparseGradSums& sums, std::vector<float*>& rows, SparseScratch& s) {
  const AttentionInputs& in = args.in;
  const int64_t channels = in.q.dim(2);
  const int64_t padded = PaddedChannels(channels);
  const int64_t head_offset = group.first_head * channels;
  const int64_t key_columns = in.k.dim(1) * channels;
  const int64_t n = s.list.size();
  const int64_t num_far = s.list.num_far;
  const float* sink_logit = in.sink_logit.data<float>() + group.first_head;
  HWY_ALIGN float sink_prob[kHeadLanes];
  HWY_ALIGN float dot[kHeadLanes];
  const bool has_next = t + 1 < in.q.dim(0);
  ListLogits(in, group, t, has_next ? args.candidates.row<int32_t>(t + 1) : nullptr,
             has_next ? args.candidates.dim(1) : 0, s);
  SurrogateSoftmax(sink_logit, group.rows, s, sink_prob);
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(channels)));
  const float* dout = args.dout.row<float>(t) + head_offset;
  PadHeads(in.q.row<float>(t) + head_offset, group.rows, channels, scale, s.by_head);
  PadHeads(in.q_rot.row<float>(t) + head_offset, group.rows, channels, scale, s.rot_by_head);
  PadHeads(dout, group.rows, channels, 1.0f, s.dout_by_head);
  TransposeHeads<kHeadLanes>(dout, group.rows, channels, 1.0f, s.dout_by_channel);
  HeadDots<kHeadLanes>(ListedRows<const float>{s.values.data()}, n, s.dout_by_channel, channels, s.dlogits);
  ListSoftmaxGrad(n, s.logits, s.dlogits, dot);
  for (int64_t h = 0; h < group.rows; ++h) sums.dsink_logit[group.first_head + h] -= sink_prob[h] * dot[h];
  AddScoreGrads(args, t, s);
  AddBiasGrads(args, group, t, sums.dbias_weight, s);

  std::fill_n(s.acc, kHeadLanes * padded, 0.0f);
  std::fill_n(s.acc_rot, kHeadLanes * padded, 0.0f);
  const float* rot = s.dlogits + num_far * kHeadLanes;
  WeightedSum<kHeadLanes>(ListedRows<const float>{s.keys.data()}, num_far, s.dlogits, group.rows, channels,
                          s.acc);
  WeightedSum<kHeadLanes>(ListedRows<const float>{s.keys.data() + num_far}, n - num_far, rot, group.rows,
                          channels, s.acc_rot);
  HWY_ALIGN float factor[kHeadLanes];
  std::fill_n(factor, kHeadLanes, scale);
  StoreHeads(s.acc, factor, group.rows, channels, args.grads.dq.row<float>(t) + head_offset);
  StoreHeads(s.acc_rot, factor, group.rows, channels, args.grads.dq_rot.row<float>(t) + head_offset);

  const auto point_at = [&](float* base) {
    for (size_t j = 0; j < static_cast<size_t>(n); ++j) {
      rows[j] = base + s.list.key[j] * key_columns + group.kv_head * channels;
    }
  };
  point_at(sums.dv);
  SpreadHeads<kHeadLanes>(ListedRows<float>{rows.data()}, n, s.logits, s.dout_by_head, group.rows, channels);
  point_at(sums.dk);
  SpreadHeads<kHeadLanes>(ListedRows<float>{rows.data()}, num_far, s.dlogits, s.by_head, group.rows,
                          channels);
  point_at(sums.dk_rot);
  SpreadHeads<kHeadLanes>(ListedRows<float>{rows.data() + num_far}, n - num_far, rot, s.rot_by_head,
                          group.rows, channels);
}

// Queries [begin, end).
void SparseAttentionGradRange(const SparseAttentionGradArgs& args, const std::vector<HeadGroup>& groups,
                              int64_t begin, int64_t end, const SparseGradSums& sums) {
  SparseScratch scratch(args.in, MaxList(args.in, args.candidates));
  std::vector<float*> rows(static_cast<size_t>(MaxList(args.in, args.candidates)));
  for (int64_t t = begin; t < end; ++t) {
    scratch.NewList(args.in.span, args.candidates, t, args.candidates.dim(1), false);
    ListGates(args.gate, t, scratch);
    for (const HeadGroup& group : groups) GradList(args, group, t, sums, rows, scratch);
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(SparseAttentionTile);
HWY_EXPORT(SurrogateAttentionTile);
HWY_EXPORT(SparseAttentionGradRange);

void CpuOps::SparseAttention(const SparseAttentionArgs& args) {
  const bool wants_gate = args.gate_target.present() || args.gate_mass.present();
  if (!wants_gate && TakesBFloat16Attention(args.in)) return BFloat16SparseAttention(args);
  const std::vector<HeadGroup> groups = HeadGroups(args.in.q.dim(1), args.in.k.dim(1));
  ParallelForRange(args.in.q.dim(0), kTileTokens, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(SparseAttentionTile)(args, groups, begin, end);
  });
}

void CpuOps::SurrogateAttention(const SurrogateAttentionArgs& args) {
  const std::vector<HeadGroup> groups = HeadGroups(args.in.q.dim(1), args.in.k.dim(1));
  ParallelForRange(args.in.q.dim(0), kTileTokens, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(SurrogateAttentionTile)(args, groups, begin, end);
  });
}

void CpuOps::SparseAttentionGrad(const SparseAttentionGradArgs& args) {
  const AttentionInputs& in = args.in;
  const int64_t tokens = in.q.dim(0);
  const int64_t query_heads = in.q.dim(1);
  const int64_t key_columns = in.k.dim(1) * in.k.dim(2);
  const std::vector<HeadGroup> groups = HeadGroups(query_heads, in.k.dim(1));
  const int64_t full_list = in.span.window + in.span.num_sinks + args.candidates.dim(1);
  const std::vector<QueryPartition> partitions =
      PartitionQueries(in.span, tokens, kGradPartitions,
                       [&](int64_t t) { return std::min(full_list, t - in.span.First(t) + 1); });
  PartitionedRows dk(partitions, key_columns);
  PartitionedRows dk_rot(partitions, key_columns);
  PartitionedRows dv(partitions, key_columns);
  PartitionedVectors dsink_logit(partitions.size(), query_heads);
  PartitionedVectors dbias_weight(partitions.size(), query_heads);
  ParallelFor(static_cast<int64_t>(partitions.size()), [&](int64_t i) {
    const QueryPartition& part = partitions[static_cast<size_t>(i)];
    dk.Clear(i);
    dk_rot.Clear(i);
    dv.Clear(i);
    const SparseGradSums sums{dk.Base(i), dk_rot.Base(i), dv.Base(i), dsink_logit.Row(i),
                              dbias_weight.Row(i)};
    HWY_DYNAMIC_DISPATCH(SparseAttentionGradRange)(args, groups, part.begin, part.end, sums);
  });
  dk.Reduce(args.grads.dk);
  dk_rot.Reduce(args.grads.dk_rot);
  dv.Reduce(args.grads.dv);
  dsink_logit.AddTo(args.grads.dsink_logit_acc);
  if (in.bias.scores.present()) dbias_weight.AddTo(args.grads.dbias_weight_acc);
}

}  // namespace sluice
#endif  // HWY_ONCE
