// Attention over every visible key, and its gradient (Dao et al., "FlashAttention", 2022, in its CPU
// form): keys are walked in blocks that begin at multiples of kKeyBlock, with an online softmax
// whose running maximum starts at the sink logit. What a query computes depends on its own keys alone,
// so the result is the same bits however the prompt is cut into calls.
//
// Gradient, with p = exp(logit − lse) and D[h] = ⟨dout[h], out[h]⟩:
//   dlogit = p (⟨dout, v⟩ − D);  dq = Σ dlogit k / √d;  dk = Σ dlogit q / √d;  dv = Σ p dout
//   dsink_logit = −exp(sink_logit − lse) D
#include "ops/attention.h"

#include <cmath>
#include <limits>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/head_plan.h"
#include "base/threads.h"

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
#include "backend/cpu/head_kernels-inl.h"
// clang-format on

#ifndef SLUICE_BACKEND_CPU_ATTENTION_ONCE
#define SLUICE_BACKEND_CPU_ATTENTION_ONCE
namespace sluice {

constexpr int64_t kKeyBlock = 64;
constexpr int64_t kTileTokens = 16;  // Queries that share the keys of a block while it is in L1.
constexpr int64_t kGradTileTokens = 8;
constexpr int64_t kGradPartitions = 8;

// What one partition of FullAttentionGrad adds to; the bases are of key 0.
struct KeyGradSums {
  float* dk;
  float* dk_rot;
  float* dv;
  float* dsink_logit;  // [query_heads]
};

// The keys of one block that a query sees: far and sinks are [begin, window), the window [window, end).
struct BlockRange {
  int64_t begin;
  int64_t window;
  int64_t end;
  BlockRange(const AttentionSpan& span, int64_t t, int64_t block)
      : begin(std::max(span.First(t), block)),
        window(0),
        end(std::min(span.Position(t) + 1, block + kKeyBlock)) {
    window = std::clamp(span.WindowBegin(t), begin, std::max(begin, end));
  }
};

}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// One query and head group of a tile.
struct QueryState {
  float* by_head;  // Scaled by 1/√d, as the next three.
  float* by_channel;
  float* rot_by_head;
  float* rot_by_channel;
  float* acc;      // [8, padded]
  float* highest;  // [8]
  float* sum;      // [8]
};

// logits [kKeyBlock + 16, 8] of the keys of a block, from `range.begin` on.
HWY_INLINE void BlockLogits(const AttentionInputs& in, const HeadGroup& group, const QueryState& query,
                            const BlockRange& range, int64_t channels, float* HWY_RESTRICT logits) {
  const int64_t num_far = range.window - range.begin;
  if (num_far > 0) {
    const StridedRows<const float> rows{in.k.row<float>(range.begin) + group.kv_head * channels,
                                        in.k.row_stride()};
    HeadDots(rows, num_far, query.by_channel, channels, logits);
  }
  if (range.end > range.window) {
    const StridedRows<const float> rows{
        in.k_rot.row<float>(range.window - in.k_rot_begin) + group.kv_head * channels, in.k_rot.row_stride()};
    HeadDots(rows, range.end - range.window, query.rot_by_channel, channels, logits + num_far * kHeadLanes);
  }
}

// One block of the online softmax.
HWY_INLINE void AttendBlock(const AttentionInputs& in, const HeadGroup& group, const QueryState& query,
                            const BlockRange& range, int64_t channels, float* HWY_RESTRICT logits) {
  const HeadTag d;
  const int64_t n = range.end - range.begin;
  const int64_t padded = PaddedChannels(channels);
  BlockLogits(in, group, query, range, channels, logits);
  HWY_ALIGN float highest[kHeadLanes];
  HWY_ALIGN float factor[kHeadLanes];
  bool raised = false;
  std::copy_n(query.highest, kHeadLanes, highest);
  HeadMax(logits, n, highest);
  for (int64_t part = 0; part < kHeadLanes; part += kHeadVecLanes) {
    const HeadVec before = hn::Load(d, query.highest + part);
    const HeadVec after = hn::Load(d, highest + part);
    raised = raised || !hn::AllTrue(d, hn::Eq(before, after));
    const HeadVec f = ExpNonPositive(d, hn::Sub(before, after));
    hn::Store(f, d, factor + part);
    hn::Store(hn::Mul(hn::Load(d, query.sum + part), f), d, query.sum + part);
    hn::Store(after, d, query.highest + part);
  }
  if (raised) {
    const FloatTag df;
    for (int64_t h = 0; h < group.rows; ++h) {
      const FloatVec f = hn::Set(df, factor[h]);
      for (int64_t c = 0; c < padded; c += static_cast<int64_t>(hn::Lanes(df))) {
        float* acc = query.acc + h * padded + c;
        hn::Store(hn::Mul(hn::Load(df, acc), f), df, acc);
      }
    }
  }
  HeadExp(logits, n, query.highest, query.sum);
  const StridedRows<const float> values{in.v.row<float>(range.begin) + group.kv_head * channels,
                                        in.v.row_stride()};
  WeightedSum(values, n, logits, group.rows, channels, query.acc);
}

HWY_INLINE QueryState PrepareQuery(const AttentionInputs& in, const HeadGroup& group, int64_t t,
                                   int64_t channels, FloatScratch& scratch) {
  const int64_t padded = PaddedChannels(channels);
  QueryState query;
  query.by_head = scratch.Take(kHeadLanes * padded);
  query.rot_by_head = scratch.Take(kHeadLanes * padded);
  query.by_channel = scratch.Take(kHeadLanes * padded);
  query.rot_by_channel = scratch.Take(kHeadLanes * padded);
  query.acc = scratch.Take(kHeadLanes * padded);
  query.highest = scratch.Take(kHeadLanes);
  query.sum = scratch.Take(kHeadLanes);
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(channels)));
  const int64_t offset = group.first_head * channels;
  PrepareHeads(in.q.row<float>(t) + offset, group.rows, channels, scale, query.by_head, query.by_channel);
  PrepareHeads(in.q_rot.row<float>(t) + offset, group.rows, channels, scale, query.rot_by_head,
               query.rot_by_channel);
  std::fill_n(query.acc, kHeadLanes * padded, 0.0f);
  return query;
}

// Queries [begin, end), at most kTileTokens of them.
void FullAttentionTile(const FullAttentionArgs& args, const HeadGroup& group, int64_t begin, int64_t end) {
  const AttentionInputs& in = args.in;
  const int64_t channels = in.q.dim(2);
  const int64_t padded = PaddedChannels(channels);
  FloatScratch scratch((end - begin) * (5 * kHeadLanes * padded + 32) + (kKeyBlock + 16) * kHeadLanes);
  float* logits = scratch.Take((kKeyBlock + 16) * kHeadLanes);
  QueryState queries[kTileTokens];
  for (int64_t t = begin; t < end; ++t) {
    QueryState& query = queries[t - begin];
    query = PrepareQuery(in, group, t, channels, scratch);
    LoadHeadValues(in.sink_logit.data<float>() + group.first_head, group.rows, 0.0f, query.highest);
    std::fill_n(query.sum, kHeadLanes, 1.0f);  // exp(sink_logit − highest)
  }
  const int64_t first_block = in.span.First(begin) / kKeyBlock * kKeyBlock;
  for (int64_t block = first_block; block <= in.span.Position(end - 1); block += kKeyBlock) {
    for (int64_t t = begin; t < end; ++t) {
      const BlockRange range(in.span, t, block);
      if (range.begin < range.end) AttendBlock(in, group, queries[t - begin], range, channels, logits);
    }
  }
  for (int64_t t = begin; t < end; ++t) {
    const QueryState& query = queries[t - begin];
    HWY_ALIGN float inverse[kHeadLanes];
    for (int64_t h = 0; h < kHeadLanes; ++h) inverse[h] = 1.0f / query.sum[h];
    StoreHeads(query.acc, inverse, group.rows, channels,
               args.out.row<float>(t) + group.first_head * channels);
    if (!args.lse.present()) continue;
    for (int64_t h = 0; h < group.rows; ++h) {
      args.lse.row<float>(t)[group.first_head + h] = query.highest[h] + std::log(query.sum[h]);
    }
  }
}

// What the gradient needs of a query beside QueryState (whose acc is dq here).
struct QueryGradState {
  QueryState query;
  float* dout_by_head;
  float* dout_by_channel;
  float* acc_rot;  // dq_rot
  float* lse;      // [8]
  float* dot;      // [8]: ⟨dout, out⟩
};

// probs = exp(logits − lse); dlogits = probs · (dlogits − dot), with dlogits = ⟨dout, v⟩ before.
HWY_INLINE void SoftmaxGrad(int64_t n, const float* HWY_RESTRICT lse, const float* HWY_RESTRICT dot,
                            float* HWY_RESTRICT probs, float* HWY_RESTRICT dlogits) {
  const HeadTag d;
  for (int64_t part = 0; part < kHeadLanes; part += kHeadVecLanes) {
    const HeadVec l = hn::Load(d, lse + part);
    const HeadVec mean = hn::Load(d, dot + part);
    for (int64_t j = 0; j < n; ++j) {
      const int64_t at = j * kHeadLanes + part;
      const HeadVec p = ExpNonPositive(d, hn::Sub(hn::Load(d, probs + at), l));
      hn::Store(p, d, probs + at);
      hn::Store(hn::Mul(p, hn::Sub(hn::Load(d, dlogits + at), mean)), d, dlogits + at);
    }
  }
}

HWY_INLINE QueryGradState PrepareQueryGrad(const FullAttentionGradArgs& args, const HeadGroup& group,
                                           int64_t t, int64_t channels, FloatScratch& scratch,
                                           float* dsink_logit) {
  const int64_t padded = PaddedChannels(channels);
  QueryGradState state;
  state.query = PrepareQuery(args.in, group, t, channels, scratch);
  state.dout_by_head = scratch.Take(kHeadLanes * padded);
  state.dout_by_channel = scratch.Take(kHeadLanes * padded);
  state.acc_rot = scratch.Take(kHeadLanes * padded);
  state.lse = scratch.Take(kHeadLanes);
  state.dot = scratch.Take(kHeadLanes);
  std::fill_n(state.acc_rot, kHeadLanes * padded, 0.0f);
  const float* dout = args.dout.row<float>(t) + group.first_head * channels;
  const float* out = args.out.row<float>(t) + group.first_head * channels;
  PrepareHeads(dout, group.rows, channels, 1.0f, state.dout_by_head, state.dout_by_channel);
  LoadHeadValues(args.lse.row<float>(t) + group.first_head, group.rows, 0.0f, state.lse);
  const float* sink_logit = args.in.sink_logit.data<float>() + group.first_head;
  for (int64_t h = 0; h < kHeadLanes; ++h) {
    float dot = 0;
    for (int64_t c = 0; h < group.rows && c < channels; ++c)
      dot += dout[h * channels + c] * out[h * channels + c];
    state.dot[h] = dot;
    if (h < group.rows) dsink_logit[group.first_head + h] -= std::exp(sink_logit[h] - state.lse[h]) * dot;
  }
  return state;
}

HWY_INLINE void GradBlock(const AttentionInputs& in, const HeadGroup& group, const QueryGradState& state,
                          const BlockRange& range, int64_t channels, const KeyGradSums& sums,
                          float* HWY_RESTRICT probs, float* HWY_RESTRICT dlogits) {
  const int64_t n = range.end - range.begin;
  const int64_t num_far = range.window - range.begin;
  const int64_t offset = group.kv_head * channels;
  const int64_t key_columns = in.k.dim(1) * channels;
  BlockLogits(in, group, state.query, range, channels, probs);
  const StridedRows<const float> values{in.v.row<float>(range.begin) + offset, in.v.row_stride()};
  HeadDots(values, n, state.dout_by_channel, channels, dlogits);
  SoftmaxGrad(n, state.lse, state.dot, probs, dlogits);
  SpreadHeads(StridedRows<float>{sums.dv + range.begin * key_columns + offset, key_columns}, n, probs,
              state.dout_by_head, group.rows, channels);
  if (num_far > 0) {
    const StridedRows<const float> keys{in.k.row<float>(range.begin) + offset, in.k.row_stride()};
    WeightedSum(keys, num_far, dlogits, group.rows, channels, state.query.acc);
    SpreadHeads(StridedRows<float>{sums.dk + range.begin * key_columns + offset, key_columns}, num_far,
                dlogits, state.query.by_head, group.rows, channels);
  }
  if (n > num_far) {
    const float* rot = dlogits + num_far * kHeadLanes;
    const StridedRows<const float> keys{in.k_rot.row<float>(range.window) + offset, in.k_rot.row_stride()};
    WeightedSum(keys, n - num_far, rot, group.rows, channels, state.acc_rot);
    SpreadHeads(StridedRows<float>{sums.dk_rot + range.window * key_columns + offset, key_columns},
                n - num_far, rot, state.query.rot_by_head, group.rows, channels);
  }
}

// Queries [begin, end), at most kGradTileTokens of them.
void FullAttentionGradTile(const FullAttentionGradArgs& args, const HeadGroup& group, int64_t begin,
                           int64_t end, const KeyGradSums& sums) {
  const AttentionInputs& in = args.in;
  const int64_t channels = in.q.dim(2);
  const int64_t padded = PaddedChannels(channels);
  const int64_t block_floats = (kKeyBlock + 16) * kHeadLanes;
  FloatScratch scratch((end - begin) * (8 * kHeadLanes * padded + 64) + 2 * block_floats);
  float* probs = scratch.Take(block_floats);
  float* dlogits = scratch.Take(block_floats);
  QueryGradState states[kGradTileTokens];
  for (int64_t t = begin; t < end; ++t) {
    states[t - begin] = PrepareQueryGrad(args, group, t, channels, scratch, sums.dsink_logit);
  }
  const int64_t first_block = in.span.First(begin) / kKeyBlock * kKeyBlock;
  for (int64_t block = first_block; block < end; block += kKeyBlock) {
    for (int64_t t = begin; t < end; ++t) {
      const BlockRange range(in.span, t, block);
      if (range.begin < range.end) {
        GradBlock(in, group, states[t - begin], range, channels, sums, probs, dlogits);
      }
    }
  }
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(channels)));
  HWY_ALIGN float factor[kHeadLanes];
  std::fill_n(factor, kHeadLanes, scale);
  for (int64_t t = begin; t < end; ++t) {
    const QueryGradState& state = states[t - begin];
    const int64_t offset = group.first_head * channels;
    StoreHeads(state.query.acc, factor, group.rows, channels, args.grads.dq.row<float>(t) + offset);
    StoreHeads(state.acc_rot, factor, group.rows, channels, args.grads.dq_rot.row<float>(t) + offset);
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(FullAttentionTile);
HWY_EXPORT(FullAttentionGradTile);

void CpuOps::FullAttention(const FullAttentionArgs& args) {
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
  std::vector<float> dsink_logit(partitions.size() * static_cast<size_t>(query_heads), 0.0f);
  ParallelFor(static_cast<int64_t>(partitions.size()), [&](int64_t i) {
    const QueryPartition& part = partitions[static_cast<size_t>(i)];
    dk.Clear(i);
    dk_rot.Clear(i);
    dv.Clear(i);
    const KeyGradSums sums{dk.Base(i), dk_rot.Base(i), dv.Base(i), dsink_logit.data() + i * query_heads};
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
  float* dsink_logit_acc = args.grads.dsink_logit_acc.data<float>();
  for (size_t i = 0; i < dsink_logit.size(); ++i) {
    dsink_logit_acc[static_cast<int64_t>(i) % query_heads] += dsink_logit[i];
  }
}

}  // namespace sluice
#endif  // HWY_ONCE
