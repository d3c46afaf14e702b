// Attention over every visible key, and its gradient (Dao et al., "FlashAttention", 2022, in its CPU
// form): keys are walked in blocks that begin at multiples of kKeyBlock, with an online softmax
// whose running maximum starts at the sink logit. What a query computes depends on its own keys alone,
// so the result is the same bits however the prompt is cut into calls.
//
// Gradient, with p = exp(logit − lse) and D[h] = ⟨dout[h], out[h]⟩:
//   dlogit = p (⟨dout, v⟩ − D);  dq = Σ dlogit k / √d;  dk = Σ dlogit q / √d;  dv = Σ p dout
//   dsink_logit = −exp(sink_logit − lse) D;  dbias = Σ_h weight dlogit;  dweight = Σ score dlogit
#include "ops/attention.h"

#include <cmath>
#include <limits>

#include "backend/cpu/bfloat16_attention.h"
#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/head_plan.h"
#include "backend/cpu/key_block.h"
#include "base/threads.h"

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
#include "backend/cpu/head_kernels-inl.h"
#include "backend/cpu/key_rows-inl.h"
// clang-format on

#ifndef SLUICE_BACKEND_CPU_ATTENTION_ONCE
#define SLUICE_BACKEND_CPU_ATTENTION_ONCE
namespace sluice {

constexpr int64_t kTileTokens = 16;  // Queries that share the keys of a block while it is in L1.
constexpr int64_t kGradTileTokens = 8;
constexpr int64_t kGradPartitions = 8;
constexpr int64_t kPairLanes = 2 * kHeadLanes;
constexpr int64_t kBlockFloats = (kKeyBlock + 16) * kPairLanes;

// What one partition of FullAttentionGrad adds to; the bases are of key 0.
struct KeyGradSums {
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

// How a vector's lanes are shared: kQuery lanes for the heads of each of kQueries neighbouring queries.
template <int64_t kAllLanes, int64_t kQueryLanes>
struct Lanes {
  static constexpr int64_t kAll = kAllLanes;
  static constexpr int64_t kQuery = kQueryLanes;
  static constexpr int64_t kQueries = kAll / kQuery;
};
using PairLanes = Lanes<16, kHeadLanes>;      // Two queries of up to 8 heads,
using QuadLanes = Lanes<16, kHeadLanes / 2>;  // four of up to 4,
using SingleLanes = Lanes<8, kHeadLanes>;     // or one alone: half of a vector is as fast as it gets.

// Neighbouring queries and one head group, in the lanes of a vector. The last queries may be missing; they
// then see no key.
template <class L>
struct QueryBundle {
  int64_t first = 0;  // Query rows first, ...
  int64_t count = 0;
  float* by_channel;        // [channels, lanes], in units of log 2 / √d
  float* rot_by_channel;    // The same of q_rot.
  float* acc[L::kQueries];  // [8, padded]
  float* highest;           // [lanes]
  float* sum;               // [lanes]
  float* bias_weight;       // [8], in units of log 2
};
using QueryPair = QueryBundle<PairLanes>;

// The keys of one block that a bundle sees.
template <class L>
struct BundleRange {
  BlockRange query[L::kQueries];
  int64_t begin = std::numeric_limits<int64_t>::max();
  int64_t window_begin = std::numeric_limits<int64_t>::max();  // Rotated keys from here on, for one of them,
  int64_t window_all = 0;                                      // and from here on for all.
  int64_t end = 0;

  BundleRange(const AttentionSpan& span, const QueryBundle<L>& bundle, int64_t block) {
    for (int64_t i = 0; i < L::kQueries; ++i) {
      query[i] = BlockRange(span, bundle.first + std::min(i, bundle.count - 1), block);
      if (i >= bundle.count) query[i].end = query[i].begin;
    }
    for (const BlockRange& range : query) {
      if (range.begin >= range.end) continue;
      begin = std::min(begin, range.begin);
      window_begin = std::min(window_begin, range.window);
      window_all = std::max(window_all, range.window);
      end = std::max(end, range.end);
    }
  }
  bool empty() const { return begin >= end; }
};
using PairRange = BundleRange<PairLanes>;

// Rows [key, …) of a tensor over keys, for one key/value head.
HWY_INLINE StridedRows<const float> HeadRows(const TensorView& tensor, int64_t key, const HeadGroup& group,
                                             int64_t channels) {
  return {tensor.row<float>(key) + group.kv_head * channels, tensor.row_stride()};
}

// Rows of keys, each asked for starts the fetch of the row of the next block in its place, and of its value:
// little by little, since a burst of fetches would hold up what follows.
struct FetchingRows {
  StridedRows<const float> rows;
  const AttentionInputs& in;
  int64_t kv_head;
  int64_t next;  // Key of row 0's successor; those from `end` on are not there.
  int64_t end;

  HWY_INLINE const float* operator()(int64_t j) const {
    if (next + j < end) {
      FetchKeyRow(in.k, next + j, kv_head);
      FetchKeyRow(in.v, next + j, kv_head);
    }
    return rows(j);
  }
};

// Keys and values of one block for one key/value head, up to key `end`.
struct BlockKeys {
  int64_t first;
  StridedRows<const float> k, v;
  int64_t next_end = 0;  // The next block is to be fetched up to here.

  // `scratch` [2, kKeyBlock, channels]; not needed where keys and values are float32.
  HWY_INLINE BlockKeys(const AttentionInputs& in, int64_t kv_head, int64_t block, int64_t end, float* scratch)
      : first(block),
        k(FloatRows(in.k, block, end, kv_head, scratch)),
        v(FloatRows(in.v, block, end, kv_head, scratch + kKeyBlock * in.q.dim(2))) {}
  HWY_INLINE StridedRows<const float> KeysFrom(int64_t key) const { return {k(key - first), k.stride}; }
  HWY_INLINE FetchingRows FetchingKeysFrom(const AttentionInputs& in, int64_t kv_head, int64_t key) const {
    return {KeysFrom(key), in, kv_head, key + kKeyBlock, next_end};
  }
  HWY_INLINE StridedRows<const float> ValuesFrom(int64_t key) const { return {v(key - first), v.stride}; }
};

// The bias of query t's far keys, added to its lanes of the logits; `lanes` are of key 0.
template <class L>
HWY_INLINE void AddFarBias(const AttentionInputs& in, int64_t t, const BlockRange& own, const float* weight,
                           float* lanes) {
  const FarPart far(in.span, t, own);
  if (far.count == 0) return;
  AddHeadBias<L::kAll, L::kQuery>(in.bias.scores.row<float>(t) + far.begin - in.span.SinksEnd(t), far.count,
                                  weight, lanes + far.begin * L::kAll);
}

// logits [kKeyBlock + 16, lanes] of keys range.begin, …; −infinity where a query does not see the key.
// `overlap` is scratch of the same size.
template <class L>
HWY_INLINE void BundleLogits(const AttentionInputs& in, const HeadGroup& group, const BlockKeys& keys,
                             const QueryBundle<L>& bundle, const BundleRange<L>& range, int64_t channels,
                             float* HWY_RESTRICT logits, float* HWY_RESTRICT overlap) {
  const int64_t num_far = range.window_all - range.begin;
  if (num_far > 0) {
    HeadDots<L::kAll>(keys.FetchingKeysFrom(in, group.kv_head, range.begin), num_far, bundle.by_channel,
                      channels, logits);
  }
  if (range.end > range.window_all) {
    HeadDots<L::kAll>(HeadRows(in.k_rot, range.window_all - in.k_rot_begin, group, channels),
                      range.end - range.window_all, bundle.rot_by_channel, channels,
                      logits + num_far * L::kAll);
  }
  if (range.window_all > range.window_begin) {
    HeadDots<L::kAll>(HeadRows(in.k_rot, range.window_begin - in.k_rot_begin, group, channels),
                      range.window_all - range.window_begin, bundle.rot_by_channel, channels, overlap);
  }
  for (int64_t i = 0; i < L::kQueries; ++i) {
    const BlockRange& own = range.query[i];
    float* lanes = logits - range.begin * L::kAll + i * L::kQuery;
    const bool sees_none = own.begin >= own.end;
    for (int64_t key = own.window; !sees_none && key < range.window_all; ++key) {
      std::copy_n(overlap + (key - range.window_begin) * L::kAll + i * L::kQuery, L::kQuery,
                  lanes + key * L::kAll);
    }
    const auto hide = [&](int64_t from, int64_t to) {
      for (int64_t key = from; key < to; ++key) {
        std::fill_n(lanes + key * L::kAll, L::kQuery, -std::numeric_limits<float>::infinity());
      }
    };
    if (in.bias.scores.present() && !sees_none)
      AddFarBias<L>(in, bundle.first + i, own, bundle.bias_weight, lanes);
    hide(range.begin, sees_none ? range.end : own.begin);
    if (!sees_none) hide(own.end, range.end);
  }
}

// One block of the online softmax. Where nothing is seen, or no maximum rises, every factor is exactly 1.
template <class L>
HWY_INLINE void AttendBlock(const AttentionInputs& in, const HeadGroup& group, const BlockKeys& keys,
                            const QueryBundle<L>& bundle, const BundleRange<L>& range, int64_t channels,
                            float* HWY_RESTRICT logits, float* HWY_RESTRICT overlap) {
  const LaneTag<L::kAll> d;
  const int64_t n = range.end - range.begin;
  BundleLogits(in, group, keys, bundle, range, channels, logits, overlap);
  HWY_ALIGN float highest[L::kAll];
  HWY_ALIGN float factor[L::kAll];
  bool raised = false;
  std::copy_n(bundle.highest, L::kAll, highest);
  HeadMax<L::kAll>(logits, n, highest);
  for (int64_t part = 0; part < L::kAll; part += kLaneStep<L::kAll>) {
    const auto before = hn::Load(d, bundle.highest + part);
    const auto after = hn::Load(d, highest + part);
    raised = raised || !hn::AllTrue(d, hn::Eq(before, after));
    const auto f = Exp2NonPositive(d, hn::Sub(before, after));
    hn::Store(f, d, factor + part);
    hn::Store(hn::Mul(hn::Load(d, bundle.sum + part), f), d, bundle.sum + part);
    hn::Store(after, d, bundle.highest + part);
  }
  HeadExp2<L::kAll>(logits, n, bundle.highest, bundle.sum);
  for (int64_t i = 0; i < bundle.count; ++i) {
    const BlockRange& own = range.query[i];
    if (raised) ScaleHeads(factor + i * L::kQuery, group.rows, PaddedChannels(channels), bundle.acc[i]);
    WeightedSum<L::kAll>(keys.ValuesFrom(own.begin), own.end - own.begin,
                         logits + (own.begin - range.begin) * L::kAll + i * L::kQuery, group.rows, channels,
                         bundle.acc[i]);
  }
}

// Starts the fetch of a group's rows of `count` queries from `first` on, below `end`.
HWY_INLINE void FetchQueryRows(const TensorView& rows, const HeadGroup& group, int64_t first, int64_t count,
                               int64_t end) {
  const int64_t channels = rows.dim(2);
  for (int64_t t = first; t < std::min(first + count, end); ++t) {
    const float* row = rows.row<float>(t) + group.first_head * channels;
    for (int64_t c = 0; c < group.rows * channels; c += 16) __builtin_prefetch(row + c, 0, 2);
  }
}

template <class L>
HWY_INLINE QueryBundle<L> PrepareBundle(const AttentionInputs& in, const HeadGroup& group, int64_t first,
                                        int64_t count, int64_t channels, FloatScratch& scratch) {
  const int64_t padded = PaddedChannels(channels);
  QueryBundle<L> bundle;
  bundle.first = first;
  bundle.count = count;
  bundle.by_channel = scratch.Take(L::kAll * padded);
  bundle.rot_by_channel = scratch.Take(L::kAll * padded);
  bundle.highest = scratch.Take(L::kAll);
  bundle.sum = scratch.Take(L::kAll);
  bundle.bias_weight = scratch.Take(kHeadLanes);
  if (in.bias.scores.present()) LoadBiasWeight(in.bias, group, kLog2E, bundle.bias_weight);
  const float scale = static_cast<float>(kLog2E / std::sqrt(static_cast<double>(channels)));
  for (int64_t i = 0; i < L::kQueries; ++i) {
    bundle.acc[i] = scratch.Take(kHeadLanes * padded);
    std::fill_n(bundle.acc[i], kHeadLanes * padded, 0.0f);
    const int64_t t = first + std::min(i, count - 1);
    const int64_t rows = i < count ? group.rows : 0;
    const int64_t offset = group.first_head * channels;
    TransposeHeads<L::kAll, L::kQuery>(in.q.row<float>(t) + offset, rows, channels, scale,
                                       bundle.by_channel + i * L::kQuery);
    TransposeHeads<L::kAll, L::kQuery>(in.q_rot.row<float>(t) + offset, rows, channels, scale,
                                       bundle.rot_by_channel + i * L::kQuery);
    // The sink logit is the first maximum, so that its own term of the sum is 1.
    LoadHeadValues<L::kQuery>(in.sink_logit.data<float>() + group.first_head, group.rows, 0.0f,
                              bundle.highest + i * L::kQuery);
  }
  for (int64_t h = 0; h < L::kAll; ++h) {
    const float sink = bundle.highest[h] * static_cast<float>(kLog2E);
    bundle.highest[h] = std::max(sink, kLowestLogit);
    bundle.sum[h] = sink < kLowestLogit ? 0.0f : 1.0f;
  }
  return bundle;
}

// out, and lse if it is wanted, of a bundle's queries.
template <class L>
HWY_INLINE void StoreBundle(const FullAttentionArgs& args, const HeadGroup& group,
                            const QueryBundle<L>& bundle) {
  const int64_t channels = args.in.q.dim(2);
  for (int64_t i = 0; i < bundle.count; ++i) {
    const int64_t t = bundle.first + i;
    const float* highest = bundle.highest + i * L::kQuery;
    const float* sum = bundle.sum + i * L::kQuery;
    HWY_ALIGN float inverse[kHeadLanes];
    for (int64_t h = 0; h < group.rows; ++h) inverse[h] = 1.0f / sum[h];
    StoreHeads(bundle.acc[i], inverse, group.rows, channels,
               args.out.row<float>(t) + group.first_head * channels);
    if (!args.lse.present()) continue;
    for (int64_t h = 0; h < group.rows; ++h) {
      args.lse.row<float>(t)[group.first_head + h] =
          static_cast<float>(static_cast<double>(highest[h]) / kLog2E + std::log(sum[h]));
    }
  }
}

template <class L>
HWY_INLINE void AttendTile(const FullAttentionArgs& args, const HeadGroup& group, int64_t begin,
                           int64_t end) {
  const AttentionInputs& in = args.in;
  const int64_t channels = in.q.dim(2);
  const int64_t padded = PaddedChannels(channels);
  const int64_t num_bundles = (end - begin + L::kQueries - 1) / L::kQueries;
  const int64_t bundle_floats = (2 * L::kAll + L::kQueries * kHeadLanes) * padded + 3 * 16;
  FloatScratch scratch(num_bundles * bundle_floats + 2 * kBlockFloats + 2 * kKeyBlock * padded);
  float* logits = scratch.Take(kBlockFloats);
  float* overlap = scratch.Take(kBlockFloats);
  float* widened = scratch.Take(2 * kKeyBlock * padded);
  QueryBundle<L> bundles[kTileTokens / L::kQueries];
  const int64_t first_block = in.span.First(begin) / kKeyBlock * kKeyBlock;
  const int64_t keys_end = in.span.Position(end - 1) + 1;
  for (int64_t block = first_block; block < keys_end; block += kKeyBlock) {
    const int64_t block_end = std::min(block + kKeyBlock, keys_end);
    BlockKeys keys(in, group.kv_head, block, block_end, widened);
    for (int64_t i = 0; i < num_bundles; ++i) {
      keys.next_end = i == 0 ? std::min(block_end + kKeyBlock, keys_end) : 0;
      if (block == first_block) {  // Not earlier: the next bundle's rows arrive while this one is computed.
        const int64_t first = begin + L::kQueries * i;
        bundles[i] =
            PrepareBundle<L>(in, group, first, std::min(L::kQueries, end - first), channels, scratch);
        FetchQueryRows(in.q, group, first + L::kQueries, L::kQueries, end);
        FetchQueryRows(in.q_rot, group, first + L::kQueries, L::kQueries, end);
      }
      const BundleRange<L> range(in.span, bundles[i], block);
      if (!range.empty()) AttendBlock(in, group, keys, bundles[i], range, channels, logits, overlap);
    }
  }
  for (int64_t i = 0; i < num_bundles; ++i) StoreBundle(args, group, bundles[i]);
}

// Queries [begin, end), at most kTileTokens of them. Lanes do not meet, so that their sharing changes no bit.
void FullAttentionTile(const FullAttentionArgs& args, const HeadGroup& group, int64_t begin, int64_t end) {
  if (end - begin == 1) return AttendTile<SingleLanes>(args, group, begin, end);
  if (group.rows <= QuadLanes::kQuery) return AttendTile<QuadLanes>(args, group, begin, end);
  AttendTile<PairLanes>(args, group, begin, end);
}

// What the gradient needs of a pair beside QueryPair, whose acc is dq here.
struct PairGrad {
  QueryPair pair;
  float* dout_by_channel;  // [channels, 16]
  float* by_head[2];       // [8, padded], scaled by 1/√d
  float* rot_by_head[2];
  float* dout_by_head[2];
  float* acc_rot[2];   // dq_rot
  float* lse;          // [16], in units of log 2
  float* dot;          // [16]: ⟨dout, out⟩
  float* bias_weight;  // [8]
};

// probs = 2^(logits − lse); dlogits = probs · (dlogits − dot), with dlogits = ⟨dout, v⟩ before.
HWY_INLINE void SoftmaxGrad(int64_t n, const float* HWY_RESTRICT lse, const float* HWY_RESTRICT dot,
                            float* HWY_RESTRICT probs, float* HWY_RESTRICT dlogits) {
  const LaneTag<kPairLanes> d;
  for (int64_t part = 0; part < kPairLanes; part += kLaneStep<kPairLanes>) {
    const auto l = hn::Load(d, lse + part);
    const auto mean = hn::Load(d, dot + part);
    for (int64_t j = 0; j < n; ++j) {
      const int64_t at = j * kPairLanes + part;
      const auto p = Exp2NonPositive(d, hn::Sub(hn::Load(d, probs + at), l));
      hn::Store(p, d, probs + at);
      hn::Store(hn::Mul(p, hn::Sub(hn::Load(d, dlogits + at), mean)), d, dlogits + at);
    }
  }
}

HWY_INLINE PairGrad PreparePairGrad(const FullAttentionGradArgs& args, const HeadGroup& group, int64_t first,
                                    int64_t count, int64_t channels, FloatScratch& scratch,
                                    float* dsink_logit) {
  const int64_t padded = PaddedChannels(channels);
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(channels)));
  const float* sink_logit = args.in.sink_logit.data<float>() + group.first_head;
  PairGrad state;
  state.pair = PrepareBundle<PairLanes>(args.in, group, first, count, channels, scratch);
  state.dout_by_channel = scratch.Take(kPairLanes * padded);
  state.lse = scratch.Take(kPairLanes);
  state.dot = scratch.Take(kPairLanes);
  state.bias_weight = scratch.Take(kHeadLanes);
  if (args.in.bias.scores.present()) LoadBiasWeight(args.in.bias, group, 1, state.bias_weight);
  std::fill_n(state.lse, kPairLanes, 0.0f);
  std::fill_n(state.dot, kPairLanes, 0.0f);
  for (int64_t i = 0; i < 2; ++i) {
    state.by_head[i] = scratch.Take(kHeadLanes * padded);
    state.rot_by_head[i] = scratch.Take(kHeadLanes * padded);
    state.dout_by_head[i] = scratch.Take(kHeadLanes * padded);
    state.acc_rot[i] = scratch.Take(kHeadLanes * padded);
    std::fill_n(state.acc_rot[i], kHeadLanes * padded, 0.0f);
    const int64_t t = first + std::min(i, count - 1);
    const int64_t rows = i < count ? group.rows : 0;
    const int64_t offset = group.first_head * channels;
    const float* dout = args.dout.row<float>(t) + offset;
    const float* out = args.out.row<float>(t) + offset;
    const float* lse = args.lse.row<float>(t) + group.first_head;
    PadHeads(args.in.q.row<float>(t) + offset, rows, channels, scale, state.by_head[i]);
    PadHeads(args.in.q_rot.row<float>(t) + offset, rows, channels, scale, state.rot_by_head[i]);
    PadHeads(dout, rows, channels, 1.0f, state.dout_by_head[i]);
    TransposeHeads<kPairLanes>(dout, rows, channels, 1.0f, state.dout_by_channel + i * kHeadLanes);
    for (int64_t h = 0; h < rows; ++h) {
      float dot = 0;
      for (int64_t c = 0; c < channels; ++c) dot += dout[h * channels + c] * out[h * channels + c];
      state.dot[i * kHeadLanes + h] = dot;
      state.lse[i * kHeadLanes + h] = static_cast<float>(lse[h] * kLog2E);
      dsink_logit[group.first_head + h] -= std::exp(sink_logit[h] - lse[h]) * dot;
    }
  }
  return state;
}

// The bias's part of AddQueryGrads; dlogits are of own.begin.
HWY_INLINE void AddBiasGrads(const AttentionInputs& in, const HeadGroup& group, const PairGrad& state,
                             int64_t t, const BlockRange& own, const TensorView& dbias_scores,
                             float* dbias_weight, const float* HWY_RESTRICT dlogits) {
  const FarPart far(in.span, t, own);
  if (far.count == 0) return;
  const int64_t column = far.begin - in.span.SinksEnd(t);
  HWY_ALIGN float dweight[kHeadLanes] = {};
  HeadBiasGrad<kPairLanes>(in.bias.scores.row<float>(t) + column, far.count, state.bias_weight,
                           dlogits + (far.begin - own.begin) * kPairLanes,
                           dbias_scores.row<float>(t) + column, dweight);
  for (int64_t h = 0; h < group.rows; ++h) dbias_weight[group.first_head + h] += dweight[h];
}

// What query i of a pair adds to the gradients from one block; probs and dlogits are of range.begin.
HWY_INLINE void AddQueryGrads(const FullAttentionGradArgs& args, const HeadGroup& group,
                              const PairGrad& state, int64_t i, const PairRange& range, int64_t channels,
                              const KeyGradSums& sums, const float* HWY_RESTRICT probs,
                              const float* HWY_RESTRICT dlogits) {
  const AttentionInputs& in = args.in;
  const BlockRange& own = range.query[i];
  const int64_t n = own.end - own.begin;
  if (n <= 0) return;
  const int64_t num_far = own.window - own.begin;
  const int64_t stride = in.k.dim(1) * channels;
  const auto grad_rows = [&](float* base, int64_t key) {
    return StridedRows<float>{base + key * stride + group.kv_head * channels, stride};
  };
  const int64_t at = (own.begin - range.begin) * kPairLanes + i * kHeadLanes;
  SpreadHeads<kPairLanes>(grad_rows(sums.dv, own.begin), n, probs + at, state.dout_by_head[i], group.rows,
                          channels);
  if (in.bias.scores.present()) {
    AddBiasGrads(in, group, state, state.pair.first + i, own, args.grads.dbias_scores_acc, sums.dbias_weight,
                 dlogits + at);
  }
  if (num_far > 0) {
    WeightedSum<kPairLanes>(HeadRows(in.k.rows, own.begin, group, channels), num_far, dlogits + at,
                            group.rows, channels, state.pair.acc[i]);
    SpreadHeads<kPairLanes>(grad_rows(sums.dk, own.begin), num_far, dlogits + at, state.by_head[i],
                            group.rows, channels);
  }
  if (n > num_far) {
    const float* rot = dlogits + at + num_far * kPairLanes;
    WeightedSum<kPairLanes>(HeadRows(in.k_rot, own.window, group, channels), n - num_far, rot, group.rows,
                            channels, state.acc_rot[i]);
    SpreadHeads<kPairLanes>(grad_rows(sums.dk_rot, own.window), n - num_far, rot, state.rot_by_head[i],
                            group.rows, channels);
  }
}

// Queries [begin, end), at most kGradTileTokens of them.
void FullAttentionGradTile(const FullAttentionGradArgs& args, const HeadGroup& group, int64_t begin,
                           int64_t end, const KeyGradSums& sums) {
  const AttentionInputs& in = args.in;
  const int64_t channels = in.q.dim(2);
  const int64_t padded = PaddedChannels(channels);
  const int64_t num_pairs = (end - begin + 1) / 2;
  FloatScratch scratch(num_pairs * (128 * padded + 6 * kPairLanes) + 3 * kBlockFloats);
  float* probs = scratch.Take(kBlockFloats);
  float* dlogits = scratch.Take(kBlockFloats);
  float* overlap = scratch.Take(kBlockFloats);
  PairGrad states[kGradTileTokens / 2];
  const int64_t first_block = in.span.First(begin) / kKeyBlock * kKeyBlock;
  for (int64_t block = first_block; block < end; block += kKeyBlock) {
    const BlockKeys keys(in, group.kv_head, block, std::min(block + kKeyBlock, end), nullptr);
    for (int64_t i = 0; i < num_pairs; ++i) {
      if (block == first_block) {
        const int64_t first = begin + 2 * i;
        states[i] = PreparePairGrad(args, group, first, std::min<int64_t>(2, end - first), channels, scratch,
                                    sums.dsink_logit);
        for (const TensorView& rows : {in.q, in.q_rot, args.dout, args.out}) {
          FetchQueryRows(rows, group, first + 2, 2, in.q.dim(0));
        }
      }
      const PairRange range(in.span, states[i].pair, block);
      if (range.empty()) continue;
      const int64_t n = range.end - range.begin;
      BundleLogits(in, group, keys, states[i].pair, range, channels, probs, overlap);
      HeadDots<kPairLanes>(keys.ValuesFrom(range.begin), n, states[i].dout_by_channel, channels, dlogits);
      SoftmaxGrad(n, states[i].lse, states[i].dot, probs, dlogits);
      for (int64_t half = 0; half < states[i].pair.count; ++half) {
        AddQueryGrads(args, group, states[i], half, range, channels, sums, probs, dlogits);
      }
    }
  }
  HWY_ALIGN float factor[kHeadLanes];
  std::fill_n(factor, kHeadLanes, static_cast<float>(1.0 / std::sqrt(static_cast<double>(channels))));
  for (int64_t t = begin; t < end; ++t) {
    const PairGrad& state = states[(t - begin) / 2];
    const int64_t half = (t - begin) % 2;
    const int64_t offset = group.first_head * channels;
    StoreHeads(state.pair.acc[half], factor, group.rows, channels, args.grads.dq.row<float>(t) + offset);
    StoreHeads(state.acc_rot[half], factor, group.rows, channels, args.grads.dq_rot.row<float>(t) + offset);
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(FullAttentionTile);
HWY_EXPORT(FullAttentionGradTile);

void CpuOps::FullAttention(const FullAttentionArgs& args) {
  if (TakesBFloat16Attention(args.in)) return BFloat16FullAttention(args);
  const std::vector<HeadGroup> groups = HeadGroups(args.in.q.dim(1), args.in.k.dim(1));
  const int64_t num_groups = static_cast<int64_t>(groups.size());
  const int64_t tokens = args.in.q.dim(0);
  const int64_t tiles = (tokens + kTileTokens - 1) / kTileTokens;
  ParallelFor(tiles * num_groups, [&](int64_t task) {
    // The last tiles have the most keys: they go first.
    const int64_t begin = (tiles - 1 - task / num_groups) * kTileTokens;
    HWY_DYNAMIC_DISPATCH(FullAttentionTile)
    (args, groups[static_cast<size_t>(task % num_groups)], begin, std::min(tokens, begin + kTileTokens));
  });
}

void CpuOps::FullAttentionGrad(const FullAttentionGradArgs& args) {
  const AttentionInputs& in = args.in;
  const int64_t tokens = in.q.dim(0);
  const int64_t query_heads = in.q.dim(1);
  const int64_t key_columns = in.k.dim(1) * in.k.dim(2);
  const std::vector<HeadGroup> groups = HeadGroups(query_heads, in.k.dim(1));
  const std::vector<QueryPartition> partitions =
      PartitionQueries(in.span, tokens, kGradPartitions, [&](int64_t t) { return t - in.span.First(t) + 1; });
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
    const KeyGradSums sums{dk.Base(i), dk_rot.Base(i), dv.Base(i), dsink_logit.Row(i), dbias_weight.Row(i)};
    for (int64_t begin = part.begin; begin < part.end; begin += kGradTileTokens) {
      for (const HeadGroup& group : groups) {
        HWY_DYNAMIC_DISPATCH(FullAttentionGradTile)
        (args, group, begin, std::min(part.end, begin + kGradTileTokens), sums);
      }
    }
  });
  dk.Reduce(args.grads.dk);
  dk_rot.Reduce(args.grads.dk_rot);
  dv.Reduce(args.grads.dv);
  dsink_logit.AddTo(args.grads.dsink_logit_acc);
  if (in.bias.scores.present()) dbias_weight.AddTo(args.grads.dbias_weight_acc);
}

}  // namespace sluice
#endif  // HWY_ONCE
