// Attention with a bound on what it did not read (formulas in ops/guaranteed_attention.h). Tiles of
// neighbouring queries go through their rounds together: each query decides by itself which blocks it reads
// next, and a block that several of them want is read once, in pairs of queries as in attention.cc. Within a
// query blocks follow in order of rounds and then of position, so its result does not depend on the others.
//
// All logits and bounds are in units of log 2; Z of a head is sum · 2^highest.
#include "ops/guaranteed_attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/guarded_query.h"
#include "backend/cpu/head_plan.h"
#include "backend/cpu/key_block.h"
#include "backend/cpu/row_norm.h"
#include "base/threads.h"

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/guaranteed_attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
#include "backend/cpu/head_kernels-inl.h"
#include "backend/cpu/key_rows-inl.h"
// clang-format on

#ifndef SLUICE_BACKEND_CPU_GUARANTEED_ATTENTION_ONCE
#define SLUICE_BACKEND_CPU_GUARANTEED_ATTENTION_ONCE
namespace sluice {

constexpr int64_t kBlock = KeyBlockView::kBlock;
constexpr int64_t kTileTokens = 16;
constexpr int64_t kPairLanes = 2 * kHeadLanes;
constexpr float kHighestBound = 1e30f;  // Stands for a bound that is infinite or not a number.

// Two neighbouring queries and one head group, as in attention.cc.
struct GuardedPair {
  float* by_channel;  // [channels, 16], in units of log 2 / √d
  float* acc[2];      // [8, padded]
  float* highest;     // [16]
  float* sum;         // [16]
  float* terms;       // [tile blocks + 16, 16]: log2 of n exp(B)
};

// Of a query that is about to choose, per head of a group.
struct HeadBalance {
  alignas(64) float rho[kHeadLanes];      // 0 where the head is closed or does not exist.
  alignas(64) float inverse[kHeadLanes];  // 1 / sum
  alignas(64) float offset[kHeadLanes];   // −log2 Z of an open head, else −infinity
  alignas(64) float total[kHeadLanes];    // U / Z
};

}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

using HeadTag = LaneTag<kHeadLanes>;

// The queries of a tile, with their scratch memory.
class GuaranteedTile {
 public:
  GuaranteedTile(const GuaranteedAttentionArgs& args, const std::vector<HeadGroup>& groups, int64_t begin,
                 int64_t end);
  void Run();

 private:
  int64_t IndexOf(const GuardedQuery& query) const { return query.t - begin_; }
  GuardedPair& PairOf(int64_t i, size_t group) {
    return pairs_[static_cast<size_t>(i / 2) * groups_.size() + group];
  }
  // The 8 lanes of query i in an array over 16.
  static float* Half(float* lanes, int64_t i) { return lanes + i % 2 * kHeadLanes; }
  float* TermsOf(const GuardedQuery& query, size_t group, int64_t block) {
    const int64_t row = query.far.first_block + block - first_block_;
    return Half(PairOf(IndexOf(query), group).terms, IndexOf(query)) + row * kPairLanes;
  }
  // Of key query.far.first_key on.
  const float* FarScores(const GuardedQuery& query) const {
    return in_.bias.scores.present() ? in_.bias.scores.row<float>(query.t) : nullptr;
  }

  void StartPair(int64_t first, size_t group);
  void ReadList(const GuardedQuery& query, size_t group);
  int64_t ListFarRows(const GuardedQuery& query, const HeadGroup& group);
  void ReadRows(const GuardedQuery& query, size_t group, const TensorView& q, int64_t n, int64_t num_sinks);

  void FindSlack(GuardedQuery& query) const;
  float LargestNorm(const GuardedQuery& query, int64_t kv_head) const;
  void BoundBlocks(size_t group);
  void BoundQuery(const GuardedQuery& query, size_t group);

  // Sets `wanted` for the next round, or `done` and the bound.
  void Choose(GuardedQuery& query);
  bool Balance(const GuardedQuery& query, float* bound);
  void SortUnread(GuardedQuery& query);
  size_t RoundSize(const GuardedQuery& query);

  bool Wants(int64_t i, int64_t block) const;
  void ReadBlock(int64_t block);
  void ReadPair(int64_t first, size_t group, int64_t block, const StridedRows<const float>& keys,
                const StridedRows<const float>& values);
  void Store(const GuardedQuery& query);

  const GuaranteedAttentionArgs& args_;
  const AttentionInputs& in_;
  const std::vector<HeadGroup>& groups_;
  const int64_t begin_;
  const int64_t channels_;
  const float scale_;  // log2(e) / √d
  const float kappa_;
  const int64_t max_list_;
  int64_t first_block_ = 0;  // Blocks of any of the queries: [first_block_, end_block_).
  int64_t end_block_ = 0;
  std::vector<GuardedQuery> queries_;
  std::vector<GuardedPair> pairs_;
  std::vector<HeadBalance> balances_;  // One per group, of the query that chooses.
  std::vector<uint64_t> order_;
  std::vector<const float*> keys_;  // What every query reads first.
  std::vector<const float*> values_;
  std::vector<float> scores_;
  FloatScratch scratch_;
  float* by_channel_;    // [channels, 8]
  float* list_logits_;   // [list + 16, 8]
  float* block_logits_;  // [64, 16]
  float* wide_list_;     // [2, list, channels]: keys and values that are not float32.
  float* wide_block_;    // [2, 64, channels], and centres.
};

inline int64_t MaxList(const GuaranteedAttentionArgs& args) {
  return std::max(args.in.span.num_sinks + args.candidates.dim(1) + kBlock, args.in.span.window);
}

inline int64_t ScratchFloats(const GuaranteedAttentionArgs& args, size_t num_groups, int64_t queries) {
  const int64_t padded = PaddedChannels(args.in.q.dim(2));
  const int64_t terms = (args.in.k.dim(0) / kBlock + 16) * kPairLanes;
  const int64_t per_pair = 2 * kPairLanes * padded + 2 * kPairLanes + terms;
  const int64_t shared = kHeadLanes * padded + (MaxList(args) + 18) * kHeadLanes + kBlock * kPairLanes +
                         2 * (MaxList(args) + kBlock) * padded;
  return (queries + 1) / 2 * static_cast<int64_t>(num_groups) * per_pair + shared;
}

GuaranteedTile::GuaranteedTile(const GuaranteedAttentionArgs& args, const std::vector<HeadGroup>& groups,
                               int64_t begin, int64_t end)
    : args_(args),
      in_(args.in),
      groups_(groups),
      begin_(begin),
      channels_(args.in.q.dim(2)),
      scale_(static_cast<float>(kLog2E / std::sqrt(static_cast<double>(channels_)))),
      kappa_(static_cast<float>(GuaranteeNumerics::Kappa(args.epsilon))),
      max_list_(MaxList(args)),
      balances_(groups.size()),
      keys_(static_cast<size_t>(max_list_)),
      values_(static_cast<size_t>(max_list_)),
      scores_(static_cast<size_t>(max_list_)),
      scratch_(ScratchFloats(args, groups.size(), end - begin)) {
  first_block_ = std::numeric_limits<int64_t>::max();
  for (int64_t t = begin; t < end; ++t) {
    const GuardedQuery& query = queries_.emplace_back(in_.span, args.candidates, t);
    first_block_ = std::min(first_block_, query.far.first_block);
    end_block_ = std::max(end_block_, query.far.end_block);
  }
  const int64_t padded = PaddedChannels(channels_);
  by_channel_ = scratch_.Take(kHeadLanes * padded);
  list_logits_ = scratch_.Take((max_list_ + 16) * kHeadLanes);
  block_logits_ = scratch_.Take(kBlock * kPairLanes);
  wide_list_ = scratch_.Take(2 * max_list_ * padded);
  wide_block_ = scratch_.Take(2 * kBlock * padded);
  pairs_.resize((queries_.size() + 1) / 2 * groups.size());
  for (GuardedPair& pair : pairs_) {
    pair.by_channel = scratch_.Take(kPairLanes * padded);
    for (float*& acc : pair.acc) acc = scratch_.Take(kHeadLanes * padded);
    pair.highest = scratch_.Take(kPairLanes);
    pair.sum = scratch_.Take(kPairLanes);
    pair.terms = scratch_.Take((end_block_ - first_block_ + 16) * kPairLanes);
  }
}

// Transposed queries and an empty softmax of queries `first`, first + 1 of the tile.
void GuaranteedTile::StartPair(int64_t first, size_t group_idx) {
  const HeadGroup& group = groups_[group_idx];
  GuardedPair& pair = PairOf(first, group_idx);
  const int64_t padded = PaddedChannels(channels_);
  std::fill_n(pair.by_channel, kPairLanes * padded, 0.0f);
  for (int64_t i = 0; i < 2; ++i) {
    std::fill_n(pair.acc[i], kHeadLanes * padded, 0.0f);
    // The sink logit is the first maximum, so that its own term of the sum is 1.
    float* highest = Half(pair.highest, i);
    LoadHeadValues(in_.sink_logit.data<float>() + group.first_head, group.rows, 0.0f, highest);
    for (int64_t h = 0; h < kHeadLanes; ++h) {
      const float sink = highest[h] * static_cast<float>(kLog2E);
      highest[h] = std::max(sink, kLowestLogit);
      Half(pair.sum, i)[h] = sink < kLowestLogit ? 0.0f : 1.0f;
    }
    if (first + i >= static_cast<int64_t>(queries_.size())) continue;
    TransposeHeads<kPairLanes>(in_.q.row<float>(begin_ + first + i) + group.first_head * channels_,
                               group.rows, channels_, scale_, Half(pair.by_channel, i));
  }
}

// Rows of the sinks, then of the selected keys and of the far keys behind the last block.
int64_t GuaranteedTile::ListFarRows(const GuardedQuery& query, const HeadGroup& group) {
  const float* far_scores = FarScores(query);
  uint64_t selected_behind = 0;
  size_t n = 0;
  const auto add = [&](int64_t key) HWY_ATTR {
    float* wide = wide_list_ + static_cast<int64_t>(2 * n) * channels_;
    keys_[n] = FloatRow(in_.k, key, group.kv_head, wide);
    values_[n] = FloatRow(in_.v, key, group.kv_head, wide + channels_);
    if (far_scores != nullptr && key >= query.far.first_key)
      scores_[n] = far_scores[key - query.far.first_key];
    ++n;
  };
  for (int64_t s = in_.span.First(query.t); s < in_.span.SinksEnd(query.t); ++s) add(s);
  for (int64_t j = 0; j < args_.candidates.dim(1); ++j) {
    const int64_t key = args_.candidates.row<int32_t>(query.t)[j];
    if (key < 0) continue;
    add(key);
    if (key >= query.far.end_key) selected_behind |= uint64_t{1} << (key % kBlock);
  }
  for (int64_t s = query.far.end_key; s < in_.span.WindowBegin(query.t); ++s) {
    if ((selected_behind >> (s % kBlock) & 1) == 0) add(s);
  }
  return static_cast<int64_t>(n);
}

// One step of the online softmax over the listed rows; `q` is rotated or not as they are. Rows from num_sinks
// on are far keys.
void GuaranteedTile::ReadRows(const GuardedQuery& query, size_t group_idx, const TensorView& q, int64_t n,
                              int64_t num_sinks) {
  if (n == 0) return;
  const HeadGroup& group = groups_[group_idx];
  GuardedPair& pair = PairOf(IndexOf(query), group_idx);
  float* acc = pair.acc[IndexOf(query) % 2];
  float* highest = Half(pair.highest, IndexOf(query));
  float* sum = Half(pair.sum, IndexOf(query));
  TransposeHeads<kHeadLanes>(q.row<float>(query.t) + group.first_head * channels_, group.rows, channels_,
                             scale_, by_channel_);
  HeadDots<kHeadLanes>(ListedRows<const float>{keys_.data()}, n, by_channel_, channels_, list_logits_);
  if (FarScores(query) != nullptr && num_sinks < n) {
    HWY_ALIGN float bias_weight[kHeadLanes];
    LoadBiasWeight(in_.bias, group, kLog2E, bias_weight);
    AddHeadBias<kHeadLanes>(scores_.data() + num_sinks, n - num_sinks, bias_weight,
                            list_logits_ + num_sinks * kHeadLanes);
  }
  HWY_ALIGN float before[kHeadLanes];
  HWY_ALIGN float factor[kHeadLanes];
  std::copy_n(highest, kHeadLanes, before);
  HeadMax<kHeadLanes>(list_logits_, n, highest);
  const HeadTag d;
  for (int64_t part = 0; part < kHeadLanes; part += kLaneStep<kHeadLanes>) {
    const auto f = Exp2NonPositive(d, hn::Sub(hn::Load(d, before + part), hn::Load(d, highest + part)));
    hn::Store(f, d, factor + part);
    hn::Store(hn::Mul(hn::Load(d, sum + part), f), d, sum + part);
  }
  HeadExp2<kHeadLanes>(list_logits_, n, highest, sum);
  ScaleHeads(factor, group.rows, PaddedChannels(channels_), acc);
  WeightedSum<kHeadLanes>(ListedRows<const float>{values_.data()}, n, list_logits_, group.rows, channels_,
                          acc);
}

// Sinks, selected keys, the far keys behind the last block; then the window.
void GuaranteedTile::ReadList(const GuardedQuery& query, size_t group_idx) {
  const HeadGroup& group = groups_[group_idx];
  const int64_t num_sinks = in_.span.SinksEnd(query.t) - in_.span.First(query.t);
  ReadRows(query, group_idx, in_.q, ListFarRows(query, group), num_sinks);
  const int64_t begin = in_.span.WindowBegin(query.t);
  const int64_t n = in_.span.Position(query.t) + 1 - begin;
  for (int64_t j = 0; j < n; ++j) {
    const auto at = static_cast<size_t>(j);
    keys_[at] = in_.k_rot.row<float>(begin + j - in_.k_rot_begin) + group.kv_head * channels_;
    values_[at] = FloatRow(in_.v, begin + j, group.kv_head, wide_list_ + j * channels_);
  }
  ReadRows(query, group_idx, in_.q_rot, n, n);
}

// Of all keys that the query sees.
float GuaranteedTile::LargestNorm(const GuardedQuery& query, int64_t kv_head) const {
  const AttentionSpan& span = in_.span;
  float largest = 0;
  for (int64_t b = query.far.first_block; b < query.far.end_block; ++b)
    RaiseTo(args_.blocks.Norm<float>(b)[kv_head], largest);
  const auto raise_to_key = [&](int64_t s) HWY_ATTR {
    RaiseTo(RowNorm<float>(FloatRow(in_.k, s, kv_head, wide_block_), nullptr, channels_), largest);
  };
  for (int64_t s = span.First(query.t); s < span.SinksEnd(query.t); ++s) raise_to_key(s);
  for (int64_t s = query.far.end_key; s < span.WindowBegin(query.t); ++s) raise_to_key(s);
  for (int64_t s = span.WindowBegin(query.t); s <= span.Position(query.t); ++s)
    RaiseTo(
        RowNorm<float>(in_.k_rot.row<float>(s - in_.k_rot_begin) + kv_head * channels_, nullptr, channels_),
        largest);
  return largest;
}

void GuaranteedTile::FindSlack(GuardedQuery& query) const {
  const AttentionSpan& span = in_.span;
  float score = 0;
  if (const float* far_scores = FarScores(query); far_scores != nullptr) {
    for (int64_t i = 0; i < span.NumFar(query.t); ++i) RaiseTo(std::abs(far_scores[i]), score);
  }
  const double sums = 1 + GuaranteeNumerics::SumError(span.Position(query.t) - span.First(query.t) + 1);
  const double root = std::sqrt(static_cast<double>(channels_));
  query.rho.assign(groups_.size() * kHeadLanes, 0.0f);
  for (size_t g = 0; g < groups_.size(); ++g) {
    const HeadGroup& group = groups_[g];
    const double norm = LargestNorm(query, group.kv_head);
    for (int64_t h = 0; h < group.rows; ++h) {
      const int64_t head = group.first_head + h;
      float q_norm = RowNorm<float>(in_.q.row<float>(query.t) + head * channels_, nullptr, channels_);
      RaiseTo(RowNorm<float>(in_.q_rot.row<float>(query.t) + head * channels_, nullptr, channels_), q_norm);
      double scale = q_norm * norm / root + std::abs(in_.sink_logit.data<float>()[head]);
      if (in_.bias.scores.present()) scale += std::abs(in_.bias.weight.data<float>()[head]) * score;
      const double slack = 2 * scale * GuaranteeNumerics::LogitError(channels_);
      query.bounded = query.bounded && slack <= GuaranteeNumerics::kMaxSlack;
      query.rho[g * kHeadLanes + static_cast<size_t>(h)] = static_cast<float>(std::exp(slack) * sums);
    }
  }
}

// The terms of all blocks of the tile, for all its queries.
void GuaranteedTile::BoundBlocks(size_t group_idx) {
  const HeadGroup& group = groups_[group_idx];
  const auto num_queries = static_cast<int64_t>(queries_.size());
  for (int64_t begin = first_block_; begin < end_block_; begin += kBlock) {
    const int64_t count = std::min(kBlock, end_block_ - begin);
    for (int64_t i = 0; i < count; ++i) {
      const uint16_t* bits = args_.blocks.Centre(begin + i) + group.kv_head * channels_;
      for (int64_t c = 0; c < channels_; ++c)
        wide_block_[i * channels_ + c] = std::bit_cast<float>(static_cast<uint32_t>(bits[c]) << 16);
    }
    const StridedRows<const float> centres{wide_block_, channels_};
    for (int64_t first = 0; first < num_queries; first += 2) {
      const GuardedPair& pair = PairOf(first, group_idx);
      HeadDots<kPairLanes>(centres, count, pair.by_channel, channels_,
                           pair.terms + (begin - first_block_) * kPairLanes);
    }
  }
  for (const GuardedQuery& query : queries_) BoundQuery(query, group_idx);
}

// terms += |q| radius + far scores + log2 n, where n is not 0.
void GuaranteedTile::BoundQuery(const GuardedQuery& query, size_t group_idx) {
  const HeadGroup& group = groups_[group_idx];
  const HeadTag d;
  HWY_ALIGN float q_norm[kHeadLanes] = {};
  for (int64_t h = 0; h < group.rows; ++h) {
    const float* q = in_.q.row<float>(query.t) + (group.first_head + h) * channels_;
    q_norm[h] = RowNorm<float>(q, nullptr, channels_) * scale_;
  }
  HWY_ALIGN float weight[kHeadLanes] = {};
  const float* far_scores = FarScores(query);
  if (far_scores != nullptr) LoadBiasWeight(in_.bias, group, kLog2E, weight);
  for (const int32_t block : query.unread) {
    const int64_t key_block = query.far.first_block + block;
    float lowest = 0, highest = 0;
    if (far_scores != nullptr) {
      const int64_t first_column = key_block * kBlock - query.far.first_key;
      const auto range = std::minmax_element(far_scores + std::max<int64_t>(first_column, 0),
                                             far_scores + first_column + kBlock);
      lowest = *range.first;
      highest = *range.second;
    }
    const float count = std::log2(static_cast<float>(query.NumUnread(block)));
    const float radius = args_.blocks.Radius<float>(key_block)[group.kv_head];
    float* row = TermsOf(query, group_idx, block);
    for (int64_t part = 0; part < kHeadLanes; part += kLaneStep<kHeadLanes>) {
      const auto w = hn::Load(d, weight + part);
      auto term = hn::MulAdd(hn::Set(d, radius), hn::Load(d, q_norm + part), hn::Load(d, row + part));
      if (far_scores != nullptr) {
        term = hn::Add(term, hn::Max(hn::Mul(w, hn::Set(d, lowest)), hn::Mul(w, hn::Set(d, highest))));
      }
      term = hn::Add(term, hn::Set(d, count));
      const auto limit = hn::Set(d, kHighestBound);
      hn::Store(hn::IfThenElse(hn::Lt(term, limit), term, limit), d, row + part);
    }
  }
}

// Lanes of n exp(B) / Z.
HWY_INLINE hn::Vec<HeadTag> TermOf(HeadTag d, const float* term, const float* highest, const float* inverse) {
  const auto exponent = hn::Sub(hn::Load(d, term), hn::Load(d, highest));
  const auto limit = hn::Set(d, static_cast<float>(GuaranteeNumerics::kMaxTermLog2));
  return hn::Mul(Exp2NonPositive(d, hn::Min(exponent, limit)), hn::Load(d, inverse));
}

// Fills the balances of a query. Returns whether a head is open; the largest bound of the missed mass.
bool GuaranteedTile::Balance(const GuardedQuery& query, float* bound) {
  const HeadTag d;
  bool any_open = false;
  for (size_t g = 0; g < groups_.size(); ++g) {
    HeadBalance& balance = balances_[g];
    const float* highest = Half(PairOf(IndexOf(query), g).highest, IndexOf(query));
    const float* sum = Half(PairOf(IndexOf(query), g).sum, IndexOf(query));
    for (int64_t h = 0; h < kHeadLanes; ++h) balance.inverse[h] = 1.0f / sum[h];
    for (int64_t part = 0; part < kHeadLanes; part += kLaneStep<kHeadLanes>) {
      auto total = hn::Set(d, static_cast<float>(GuaranteeNumerics::kUnderflow));
      for (const int32_t block : query.unread) {
        total = hn::Add(total,
                        TermOf(d, TermsOf(query, g, block) + part, highest + part, balance.inverse + part));
      }
      hn::Store(total, d, balance.total + part);
    }
    for (int64_t h = 0; h < kHeadLanes; ++h) {
      const float rho = query.rho[g * kHeadLanes + static_cast<size_t>(h)];
      const float missed = rho * balance.total[h];
      const bool open = h < groups_[g].rows && !(query.bounded && missed <= kappa_);
      balance.rho[h] = open ? rho : 0.0f;
      balance.offset[h] = open ? -(highest[h] + std::log2(sum[h])) : -std::numeric_limits<float>::infinity();
      if (h < groups_[g].rows) RaiseTo(missed / (1 + missed), *bound);
      any_open = any_open || open;
    }
  }
  return any_open;
}

// By max over open heads of n exp(B) / Z, ties to the lower block.
void GuaranteedTile::SortUnread(GuardedQuery& query) {
  const HeadTag d;
  order_.clear();
  for (const int32_t block : query.unread) {
    float largest = -std::numeric_limits<float>::infinity();
    for (size_t g = 0; g < groups_.size(); ++g) {
      HWY_ALIGN float lanes[kHeadLanes];
      const float* row = TermsOf(query, g, block);
      for (int64_t part = 0; part < kHeadLanes; part += kLaneStep<kHeadLanes>)
        hn::Store(hn::Add(hn::Load(d, row + part), hn::Load(d, balances_[g].offset + part)), d, lanes + part);
      for (int64_t h = 0; h < kHeadLanes; ++h) RaiseTo(lanes[h], largest);
    }
    // The bits of floats, turned so that larger ones come first in the order of integers.
    largest = std::min(largest, static_cast<float>(kHighestBound)) + 0.0f;
    const auto bits = std::bit_cast<uint32_t>(largest);
    const uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
    order_.push_back(static_cast<uint64_t>(~ascending) << 32 | static_cast<uint32_t>(block));
  }
  std::sort(order_.begin(), order_.end());
  for (size_t i = 0; i < order_.size(); ++i) query.unread[i] = static_cast<int32_t>(order_[i] & 0xffffffffu);
}

// The least number of sorted blocks that could close every open head. Terms are summed from the last on: with
// the smallest first, and no further than the answer.
size_t GuaranteedTile::RoundSize(const GuardedQuery& query) {
  const HeadTag d;
  size_t count = query.unread.size();
  if (!query.bounded) return count;
  std::vector<float> rests(groups_.size() * kHeadLanes, static_cast<float>(GuaranteeNumerics::kUnderflow));
  for (; count > 1; --count) {
    for (size_t g = 0; g < groups_.size(); ++g) {
      const HeadBalance& balance = balances_[g];
      const float* highest = Half(PairOf(IndexOf(query), g).highest, IndexOf(query));
      const float* row = TermsOf(query, g, query.unread[count - 1]);
      for (int64_t part = 0; part < kHeadLanes; part += kLaneStep<kHeadLanes>) {
        float* sum = rests.data() + g * kHeadLanes + part;
        const auto after =
            hn::Add(hn::LoadU(d, sum), TermOf(d, row + part, highest + part, balance.inverse + part));
        hn::StoreU(after, d, sum);
        const auto rho = hn::Load(d, balance.rho + part);
        const auto read = hn::Sub(hn::Load(d, balance.total + part), after);
        const auto most = hn::Mul(hn::Set(d, kappa_), hn::MulAdd(rho, read, hn::Set(d, 1.0f)));
        if (!hn::AllTrue(d, hn::Le(hn::Mul(rho, after), most))) return count;
      }
    }
  }
  return count;
}

void GuaranteedTile::Choose(GuardedQuery& query) {
  if (query.done) return;
  query.bound = 0;
  if (query.unread.empty() || !Balance(query, &query.bound)) {
    query.done = true;
    return;
  }
  SortUnread(query);
  const int64_t least = query.blocks_read / GuaranteeNumerics::kRoundShare;
  const int64_t count = std::min(static_cast<int64_t>(query.unread.size()),
                                 std::max(least, static_cast<int64_t>(RoundSize(query))));
  query.blocks_read += count;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t block = query.unread[static_cast<size_t>(i)];
    query.wanted[static_cast<size_t>(block)] = 1;
    query.keys_read += query.NumUnread(block);
  }
  query.unread.erase(query.unread.begin(), query.unread.begin() + count);
}

// Whether query i of the tile, if there is one, reads the block in this round.
bool GuaranteedTile::Wants(int64_t i, int64_t block) const {
  if (i >= static_cast<int64_t>(queries_.size())) return false;
  const GuardedQuery& query = queries_[static_cast<size_t>(i)];
  if (block < query.far.first_block || block >= query.far.end_block) return false;
  return query.wanted[static_cast<size_t>(block - query.far.first_block)] != 0;
}

// A block for all queries that want it; its keys and values are widened once per key/value head.
void GuaranteedTile::ReadBlock(int64_t block) {
  const auto num_queries = static_cast<int64_t>(queries_.size());
  bool wanted = false;
  for (int64_t i = 0; i < num_queries; ++i) wanted = wanted || Wants(i, block);
  if (!wanted) return;
  const int64_t begin = block * kBlock;
  StridedRows<const float> keys{nullptr, 0}, values{nullptr, 0};
  int64_t kv_head = -1;
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (groups_[g].kv_head != kv_head) {
      kv_head = groups_[g].kv_head;
      keys = FloatRows(in_.k, begin, begin + kBlock, kv_head, wide_block_);
      values = FloatRows(in_.v, begin, begin + kBlock, kv_head, wide_block_ + kBlock * channels_);
    }
    for (int64_t first = 0; first < num_queries; first += 2)
      if (Wants(first, block) || Wants(first + 1, block)) ReadPair(first, g, block, keys, values);
  }
}

// One step of the online softmax of queries `first`, first + 1. What one of them does not want, or has read
// already, weighs nothing.
void GuaranteedTile::ReadPair(int64_t first, size_t group_idx, int64_t block,
                              const StridedRows<const float>& keys, const StridedRows<const float>& values) {
  const HeadGroup& group = groups_[group_idx];
  const GuardedPair& pair = PairOf(first, group_idx);
  HeadDots<kPairLanes>(keys, kBlock, pair.by_channel, channels_, block_logits_);
  const bool wants[2] = {Wants(first, block), Wants(first + 1, block)};
  for (int64_t i = 0; i < 2; ++i) {
    float* logits = Half(block_logits_, i);
    uint64_t hidden = ~uint64_t{0};
    if (wants[i]) {
      const GuardedQuery& query = queries_[static_cast<size_t>(first + i)];
      hidden = query.read[static_cast<size_t>(block - query.far.first_block)];
      const int64_t skipped = std::max<int64_t>(query.far.first_key - block * kBlock, 0);
      if (const float* scores = FarScores(query); scores != nullptr) {
        HWY_ALIGN float bias_weight[kHeadLanes];
        LoadBiasWeight(in_.bias, group, kLog2E, bias_weight);
        AddHeadBias<kPairLanes>(scores + block * kBlock + skipped - query.far.first_key, kBlock - skipped,
                                bias_weight, logits + skipped * kPairLanes);
      }
    }
    for (; hidden != 0; hidden &= hidden - 1) {
      std::fill_n(logits + std::countr_zero(hidden) * kPairLanes, kHeadLanes,
                  -std::numeric_limits<float>::infinity());
    }
  }
  HWY_ALIGN float before[kPairLanes];
  HWY_ALIGN float factor[kPairLanes];
  std::copy_n(pair.highest, kPairLanes, before);
  HeadMax<kPairLanes>(block_logits_, kBlock, pair.highest);
  const LaneTag<kPairLanes> d;
  bool raised = false;
  for (int64_t part = 0; part < kPairLanes; part += kLaneStep<kPairLanes>) {
    const auto change = hn::Sub(hn::Load(d, before + part), hn::Load(d, pair.highest + part));
    raised = raised || !hn::AllTrue(d, hn::Eq(change, hn::Zero(d)));
    const auto f = Exp2NonPositive(d, change);
    hn::Store(f, d, factor + part);
    hn::Store(hn::Mul(hn::Load(d, pair.sum + part), f), d, pair.sum + part);
  }
  HeadExp2<kPairLanes>(block_logits_, kBlock, pair.highest, pair.sum);
  for (int64_t i = 0; i < 2; ++i) {
    if (!wants[i]) continue;
    if (raised) ScaleHeads(Half(factor, i), group.rows, PaddedChannels(channels_), pair.acc[i]);
    WeightedSum<kPairLanes>(values, kBlock, Half(block_logits_, i), group.rows, channels_, pair.acc[i]);
  }
}

void GuaranteedTile::Store(const GuardedQuery& query) {
  for (size_t g = 0; g < groups_.size(); ++g) {
    const HeadGroup& group = groups_[g];
    const GuardedPair& pair = PairOf(IndexOf(query), g);
    HWY_ALIGN float inverse[kHeadLanes];
    for (int64_t h = 0; h < kHeadLanes; ++h) inverse[h] = 1.0f / Half(pair.sum, IndexOf(query))[h];
    StoreHeads(pair.acc[IndexOf(query) % 2], inverse, group.rows, channels_,
               args_.out.row<float>(query.t) + group.first_head * channels_);
  }
  args_.bound.data<float>()[query.t] = query.bound;
  args_.keys_read.data<int32_t>()[query.t] = static_cast<int32_t>(query.keys_read);
}

void GuaranteedTile::Run() {
  const auto num_queries = static_cast<int64_t>(queries_.size());
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (int64_t first = 0; first < num_queries; first += 2) {
      StartPair(first, g);
      for (int64_t i = first; i < std::min(first + 2, num_queries); ++i)
        ReadList(queries_[static_cast<size_t>(i)], g);
    }
    BoundBlocks(g);
  }
  for (GuardedQuery& query : queries_) {
    query.keys_read = in_.span.Position(query.t) + 1 - in_.span.First(query.t);
    for (const int32_t block : query.unread) query.keys_read -= query.NumUnread(block);
    FindSlack(query);
  }
  while (true) {
    for (GuardedQuery& query : queries_) Choose(query);
    if (std::all_of(queries_.begin(), queries_.end(), [](const GuardedQuery& query) { return query.done; }))
      break;
    for (int64_t block = first_block_; block < end_block_; ++block) ReadBlock(block);
    for (GuardedQuery& query : queries_) std::fill(query.wanted.begin(), query.wanted.end(), uint8_t{0});
  }
  for (const GuardedQuery& query : queries_) Store(query);
}

void RunGuaranteedTile(const GuaranteedAttentionArgs& args, const std::vector<HeadGroup>& groups,
                       int64_t begin, int64_t end) {
  GuaranteedTile(args, groups, begin, end).Run();
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(RunGuaranteedTile);

void CpuOps::GuaranteedAttention(const GuaranteedAttentionArgs& args) {
  const std::vector<HeadGroup> groups = HeadGroups(args.in.q.dim(1), args.in.k.dim(1));
  const int64_t tokens = args.in.q.dim(0);
  const int64_t tiles = (tokens + kTileTokens - 1) / kTileTokens;
  ParallelFor(tiles, [&](int64_t task) {
    // The last tiles have the most keys: they go first.
    const int64_t begin = (tiles - 1 - task) * kTileTokens;
    HWY_DYNAMIC_DISPATCH(RunGuaranteedTile)(args, groups, begin, std::min(tokens, begin + kTileTokens));
  });
}

}  // namespace sluice
#endif  // HWY_ONCE
