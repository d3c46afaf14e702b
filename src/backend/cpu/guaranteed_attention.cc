// Attention with a bound on what it did not read (formulas in ops/guaranteed_attention.h). Up to 8 heads that
// share a key/value head lie in the lanes of vectors. The products of a query with all codewords are made
// once; a key's bound is then a sum of a few of them.
//
// All logits and bounds are in units of log 2; Z of a head is sum · 2^highest.
#include "ops/guaranteed_attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "backend/cpu/cpu_ops.h"
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

constexpr int kLevels = GuaranteeNumerics::kLevels;
constexpr int64_t kListRows = 256;  // Keys read in one step of the online softmax.
constexpr int64_t kFetchAhead = 8;  // Keys whose rows are on their way.

// What all queries share: of every key/value head |mean| + Σ_j max_i |codewords[j, i]|, and its least weight.
struct CodebookReach {
  std::vector<float> norm;
  std::vector<float> least_weight;

  explicit CodebookReach(const KeyCodebook& book) {
    constexpr int64_t kCodewords = KeyCodebook::kCodewords;
    const int64_t channels = book.mean.dim(1);
    for (int64_t g = 0; g < book.mean.dim(0); ++g) {
      float sum = RowNorm(book.mean.row<float>(g), channels);
      for (int64_t j = 0; j < book.num_stages(); ++j) {
        float largest = 0;
        for (int64_t i = j * kCodewords; i < (j + 1) * kCodewords; ++i)
          RaiseTo(RowNorm(book.codewords.row<float>(g) + i * channels, channels), largest);
        sum += largest;
      }
      norm.push_back(sum);
      const float* weight = book.weight.row<float>(g);
      least_weight.push_back(*std::min_element(weight, weight + channels));
    }
  }
};

// The online softmax of one head group, and the bounds of its far keys.
struct GuardedHeads {
  HeadGroup group;
  float* acc;                     // [8, padded channels]
  float* highest;                 // [8]
  float* sum;                     // [8]
  float* products;                // [J · 256, 8]: q · codeword
  float* offset;                  // [8]: q · mean − log2 Z_0; of no head the lowest logit
  float* reach;                   // [8]: |q / w|
  float* bias;                    // [8]: the bias weights
  float* terms;                   // [64, 8]: log2 (exp(B) / Z_0) of the keys of a page
  float* masses;                  // [levels, 8]: Σ exp(B) / Z_0 of the unread keys of a level
  std::vector<double> below;      // [levels + 1, 8]: of the levels below, kUnderflow included
  double first_log2[kHeadLanes];  // log2 Z_0
  double slack[kHeadLanes] = {};  // r
  uint8_t distance = 0;           // The largest distance code of the keys that the query sees.
};

}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

using HeadTag = LaneTag<kHeadLanes>;

// One query, with its scratch memory.
class GuardedQuery {
 public:
  GuardedQuery(const GuaranteedAttentionArgs& args, const std::vector<HeadGroup>& groups,
               const CodebookReach& codebook, int64_t t);
  // False if it is for full attention; nothing is written then.
  bool Run();

 private:
  int64_t first_far() const { return in_.span.SinksEnd(t_); }
  int64_t end_far() const { return in_.span.WindowBegin(t_); }
  const float* QueryOf(const TensorView& q, const HeadGroup& group) const {
    return q.row<float>(t_) + group.first_head * channels_;
  }

  // The softmax over what is read.
  void Start(GuardedHeads& heads) const;
  void ReadSelected();
  void ReadWindow();
  void ReadLevels(int from, int end);
  void ReadList(const std::vector<int32_t>& keys);
  void ReadRows(GuardedHeads& heads, const TensorView& q, int64_t n, bool biased);

  // What is not.
  void PrepareBounds(GuardedHeads& heads);
  void BoundKeys();
  void BoundPage(GuardedHeads& heads, int64_t first_key, int64_t n, float* largest) const;
  void TakeLevels(int64_t first_key, int64_t n, const float* largest);
  void SumLevels(GuardedHeads& heads) const;
  void FindSlack(GuardedHeads& heads, float largest_score);
  bool HoldsFrom(int level, int read_from) const;
  int NextLevel(int read_from) const;
  bool ReadsAllFrom(int level) const;
  float Bound(int read_from) const;
  void Store(const GuardedHeads& heads) const;

  const GuaranteedAttentionArgs& args_;
  const AttentionInputs& in_;
  const CodebookReach& codebook_;
  const int64_t t_;
  const int64_t channels_;
  const int64_t num_stages_;
  const float scale_;  // log2(e) / √d
  const double kappa_;
  const float* distances_ = KeyCodeNumerics::Distances().data();
  const float* far_scores_;  // Of key first_far() on; null: no bias
  std::vector<GuardedHeads> heads_;
  std::vector<uint8_t> levels_;  // [far keys]; 0: read
  std::vector<int64_t> counts_;  // [levels]: unread keys
  int64_t num_unread_ = 0;
  bool bounded_ = true;        // No slack is beyond kMaxSlack.
  std::vector<int32_t> list_;  // Far keys to be read.
  std::vector<const float*> keys_;
  std::vector<const float*> values_;
  std::vector<float> scores_;
  FloatScratch scratch_;
  float* by_channel_;   // [channels, 8]
  float* list_logits_;  // [list + 8, 8]
  float* wide_;         // [2, list, channels]: keys and values that are not float32.
};

inline int64_t MaxList(const AttentionInputs& in) {
  return std::max({in.span.num_sinks, in.span.window, kListRows});
}

inline int64_t ScratchFloats(const GuaranteedAttentionArgs& args, size_t num_groups) {
  const int64_t padded = PaddedChannels(args.in.q.dim(2)), list = MaxList(args.in);
  const int64_t products = args.codebook.num_stages() * KeyCodebook::kCodewords * kHeadLanes;
  const int64_t per_group =
      kHeadLanes * padded + products + (kLevels + kPageRows) * kHeadLanes + 10 * kHeadLanes;
  return static_cast<int64_t>(num_groups) * per_group + kHeadLanes * padded + (list + 8) * kHeadLanes +
         2 * list * padded;
}

GuardedQuery::GuardedQuery(const GuaranteedAttentionArgs& args, const std::vector<HeadGroup>& groups,
                           const CodebookReach& codebook, int64_t t)
    : args_(args),
      in_(args.in),
      codebook_(codebook),
      t_(t),
      channels_(args.in.q.dim(2)),
      num_stages_(args.codebook.num_stages()),
      scale_(static_cast<float>(kLog2E / std::sqrt(static_cast<double>(channels_)))),
      kappa_(GuaranteeNumerics::Kappa(args.epsilon)),
      far_scores_(in_.bias.scores.present() ? in_.bias.scores.row<float>(t) : nullptr),
      levels_(static_cast<size_t>(in_.span.NumFar(t)), uint8_t{1}),
      counts_(kLevels, 0),
      keys_(static_cast<size_t>(MaxList(in_))),
      values_(static_cast<size_t>(MaxList(in_))),
      scores_(static_cast<size_t>(MaxList(in_))),
      scratch_(ScratchFloats(args, groups.size())) {
  for (const HeadGroup& group : groups) {
    GuardedHeads& heads = heads_.emplace_back();
    heads.group = group;
    heads.acc = scratch_.Take(kHeadLanes * PaddedChannels(channels_));
    heads.products = scratch_.Take(num_stages_ * KeyCodebook::kCodewords * kHeadLanes);
    heads.terms = scratch_.Take(kPageRows * kHeadLanes);
    heads.masses = scratch_.Take(kLevels * kHeadLanes);
    for (float** lanes : {&heads.highest, &heads.sum, &heads.offset, &heads.reach, &heads.bias})
      *lanes = scratch_.Take(kHeadLanes);
  }
  by_channel_ = scratch_.Take(kHeadLanes * PaddedChannels(channels_));
  list_logits_ = scratch_.Take((MaxList(in_) + 8) * kHeadLanes);
  wide_ = scratch_.Take(2 * MaxList(in_) * PaddedChannels(channels_));
}

// An empty softmax. The sink logit is the first maximum, so that its own term of the sum is 1.
void GuardedQuery::Start(GuardedHeads& heads) const {
  std::fill_n(heads.acc, kHeadLanes * PaddedChannels(channels_), 0.0f);
  LoadHeadValues(in_.sink_logit.data<float>() + heads.group.first_head, heads.group.rows, 0.0f,
                 heads.highest);
  for (int64_t h = 0; h < kHeadLanes; ++h) {
    const float sink = heads.highest[h] * static_cast<float>(kLog2E);
    heads.highest[h] = std::max(sink, kLowestLogit);
    heads.sum[h] = sink < kLowestLogit ? 0.0f : 1.0f;
  }
  std::fill_n(heads.bias, kHeadLanes, 0.0f);
  if (far_scores_ != nullptr) LoadBiasWeight(in_.bias, heads.group, kLog2E, heads.bias);
}

// One step of the online softmax over the listed rows; `q` is rotated or not as they are, `biased` that they
// have scores.
void GuardedQuery::ReadRows(GuardedHeads& heads, const TensorView& q, int64_t n, bool biased) {
  if (n == 0) return;
  TransposeHeads<kHeadLanes>(QueryOf(q, heads.group), heads.group.rows, channels_, scale_, by_channel_);
  HeadDots<kHeadLanes>(ListedRows<const float>{keys_.data()}, n, by_channel_, channels_, list_logits_);
  if (biased) AddHeadBias<kHeadLanes>(scores_.data(), n, heads.bias, list_logits_);
  HWY_ALIGN float before[kHeadLanes];
  HWY_ALIGN float factor[kHeadLanes];
  std::copy_n(heads.highest, kHeadLanes, before);
  HeadMax<kHeadLanes>(list_logits_, n, heads.highest);
  const HeadTag d;
  for (int64_t part = 0; part < kHeadLanes; part += kLaneStep<kHeadLanes>) {
    const auto f = Exp2NonPositive(d, hn::Sub(hn::Load(d, before + part), hn::Load(d, heads.highest + part)));
    hn::Store(f, d, factor + part);
    hn::Store(hn::Mul(hn::Load(d, heads.sum + part), f), d, heads.sum + part);
  }
  HeadExp2<kHeadLanes>(list_logits_, n, heads.highest, heads.sum);
  ScaleHeads(factor, heads.group.rows, PaddedChannels(channels_), heads.acc);
  WeightedSum<kHeadLanes>(ListedRows<const float>{values_.data()}, n, list_logits_, heads.group.rows,
                          channels_, heads.acc);
}

// Sinks or far keys, not both, in steps of kListRows.
void GuardedQuery::ReadList(const std::vector<int32_t>& keys) {
  const auto total = static_cast<int64_t>(keys.size());
  for (int64_t begin = 0; begin < total; begin += kListRows) {
    const int64_t n = std::min(kListRows, total - begin);
    for (GuardedHeads& heads : heads_) {
      const int64_t kv_head = heads.group.kv_head;
      for (int64_t j = 0; j < n; ++j) {
        if (begin + j + kFetchAhead < total) {
          const int32_t ahead = keys[static_cast<size_t>(begin + j + kFetchAhead)];
          FetchKeyRow(in_.k, ahead, kv_head);
          FetchKeyRow(in_.v, ahead, kv_head);
        }
        const int32_t key = keys[static_cast<size_t>(begin + j)];
        const auto at = static_cast<size_t>(j);
        float* wide = wide_ + 2 * j * channels_;
        keys_[at] = FloatRow(in_.k, key, kv_head, wide);
        values_[at] = FloatRow(in_.v, key, kv_head, wide + channels_);
        if (far_scores_ != nullptr && key >= first_far()) scores_[at] = far_scores_[key - first_far()];
      }
      ReadRows(heads, in_.q, n, far_scores_ != nullptr && keys.front() >= first_far());
    }
  }
}

// Sinks, then the selected keys.
void GuardedQuery::ReadSelected() {
  list_.clear();
  for (int64_t s = in_.span.First(t_); s < first_far(); ++s) list_.push_back(static_cast<int32_t>(s));
  ReadList(list_);
  list_.clear();
  for (int64_t j = 0; j < args_.candidates.dim(1); ++j) {
    const int32_t key = args_.candidates.row<int32_t>(t_)[j];
    if (key < 0) continue;
    list_.push_back(key);
    levels_[static_cast<size_t>(key - first_far())] = 0;
  }
  ReadList(list_);
  num_unread_ = in_.span.NumFar(t_) - std::ssize(list_);
}

void GuardedQuery::ReadWindow() {
  const int64_t begin = end_far(), n = in_.span.Position(t_) + 1 - begin;
  for (GuardedHeads& heads : heads_) {
    const int64_t kv_head = heads.group.kv_head;
    for (int64_t j = 0; j < n; ++j) {
      const auto at = static_cast<size_t>(j);
      keys_[at] = in_.k_rot.row<float>(begin + j - in_.k_rot_begin) + kv_head * channels_;
      values_[at] = FloatRow(in_.v, begin + j, kv_head, wide_ + j * channels_);
    }
    ReadRows(heads, in_.q_rot, n, /*biased=*/false);
  }
}

// Unread keys of levels [from, end).
void GuardedQuery::ReadLevels(int from, int end) {
  const hn::CappedTag<uint8_t, 64> d;
  const auto lanes = static_cast<size_t>(hn::Lanes(d));
  const auto first = hn::Set(d, static_cast<uint8_t>(from));
  const auto width = static_cast<uint8_t>(end - from - 1);
  const auto add = [&](size_t i) {
    list_.push_back(static_cast<int32_t>(first_far() + static_cast<int64_t>(i)));
  };
  list_.clear();
  size_t i = 0;
  // Below `from` the differences wrap around.
  for (; i + lanes <= levels_.size(); i += lanes) {
    const auto above = hn::Sub(hn::LoadU(d, levels_.data() + i), first);
    const auto wanted = hn::Eq(hn::Min(above, hn::Set(d, width)), above);
    uint8_t bytes[8] = {};
    hn::StoreMaskBits(d, wanted, bytes);
    uint64_t bits = 0;
    std::memcpy(&bits, bytes, sizeof(bits));
    for (; bits != 0; bits &= bits - 1) add(i + static_cast<size_t>(std::countr_zero(bits)));
  }
  for (; i < levels_.size(); ++i) {
    if (static_cast<uint8_t>(levels_[i] - from) <= width) add(i);
  }
  ReadList(list_);
  num_unread_ -= std::ssize(list_);
}

// With Z_0 in `highest` and `sum`.
void GuardedQuery::PrepareBounds(GuardedHeads& heads) {
  const HeadGroup& group = heads.group;
  const float* q = QueryOf(in_.q, group);
  const float* weight = args_.codebook.weight.row<float>(group.kv_head);
  TransposeHeads<kHeadLanes>(q, group.rows, channels_, scale_, by_channel_);
  if (num_stages_ > 0) {
    const StridedRows<const float> codewords{args_.codebook.codewords.row<float>(group.kv_head), channels_};
    HeadDots<kHeadLanes>(codewords, num_stages_ * KeyCodebook::kCodewords, by_channel_, channels_,
                         heads.products);
  }
  const StridedRows<const float> mean{args_.codebook.mean.row<float>(group.kv_head), channels_};
  HeadDots<kHeadLanes>(mean, 1, by_channel_, channels_, list_logits_);
  std::vector<float> unweighted(static_cast<size_t>(channels_));
  for (int64_t h = 0; h < kHeadLanes; ++h) {
    heads.first_log2[h] =
        static_cast<double>(heads.highest[h]) + std::log2(static_cast<double>(heads.sum[h]));
    heads.offset[h] = kLowestLogit;
    heads.reach[h] = 0;
    if (h >= group.rows) continue;
    heads.offset[h] = list_logits_[h] - static_cast<float>(heads.first_log2[h]);
    for (int64_t c = 0; c < channels_; ++c)
      unweighted[static_cast<size_t>(c)] = q[h * channels_ + c] / weight[c];
    heads.reach[h] = RowNorm(unweighted.data(), channels_) * scale_;
  }
  std::fill_n(heads.masses, kLevels * kHeadLanes, 0.0f);
}

// Fills the terms of far keys of one page, and raises the largest of each key to what these heads have.
void GuardedQuery::BoundPage(GuardedHeads& heads, int64_t first_key, int64_t n, float* largest) const {
  const HeadTag d;
  const int64_t kv_head = heads.group.kv_head;
  const int64_t code_stride = num_stages_ > 0 ? args_.codes.codes.row_stride() : 0;
  const int64_t distance_stride = args_.codes.distance.row_stride();
  const uint8_t* codes = num_stages_ > 0 ? args_.codes.Codes(first_key) + kv_head * num_stages_ : nullptr;
  const uint8_t* distances = args_.codes.Distance(first_key) + kv_head;
  const float* scores = far_scores_ != nullptr ? far_scores_ + (first_key - first_far()) : nullptr;
  const auto limit = hn::Set(d, static_cast<float>(GuaranteeNumerics::kMaxTermLog2));
  for (int64_t part = 0; part < kHeadLanes; part += kLaneStep<kHeadLanes>) {
    const auto reach = hn::Load(d, heads.reach + part), offset = hn::Load(d, heads.offset + part);
    const auto bias = hn::Load(d, heads.bias + part);
    const float* products = heads.products + part;
    for (int64_t j = 0; j < n; ++j) {
      auto term = hn::MulAdd(hn::Set(d, distances_[distances[j * distance_stride]]), reach, offset);
      if (scores != nullptr) term = hn::MulAdd(hn::Set(d, scores[j]), bias, term);
      const uint8_t* code = codes + j * code_stride;
      const float* stage_products = products;
      for (int64_t stage = 0; stage < num_stages_; ++stage) {
        term = hn::Add(term, hn::Load(d, stage_products + code[stage] * kHeadLanes));
        stage_products += KeyCodebook::kCodewords * kHeadLanes;
      }
      term = hn::IfThenElse(hn::Lt(term, limit), term, limit);  // NaN: the limit.
      hn::Store(term, d, heads.terms + j * kHeadLanes + part);
      largest[j] = std::max(largest[j], hn::GetLane(hn::MaxOfLanes(d, term)));
    }
  }
  for (int64_t j = 0; j < n; ++j) heads.distance = std::max(heads.distance, distances[j * distance_stride]);
}

// Levels of the unread ones of far keys of one page, and what each level may hold.
void GuardedQuery::TakeLevels(int64_t first_key, int64_t n, const float* largest) {
  const HeadTag d;
  uint8_t* levels = levels_.data() + (first_key - first_far());
  for (int64_t j = 0; j < n; ++j) {
    if (levels[j] == 0) continue;
    const int level = GuaranteeNumerics::Level(largest[j]);
    levels[j] = static_cast<uint8_t>(level);
    ++counts_[static_cast<size_t>(level)];
    for (GuardedHeads& heads : heads_) {
      float* masses = heads.masses + level * kHeadLanes;
      const float* terms = heads.terms + j * kHeadLanes;
      for (int64_t part = 0; part < kHeadLanes; part += kLaneStep<kHeadLanes>) {
        const auto mass = Exp2NonPositive(d, hn::Load(d, terms + part));
        hn::Store(hn::Add(hn::Load(d, masses + part), mass), d, masses + part);
      }
    }
  }
}

void GuardedQuery::BoundKeys() {
  for (GuardedHeads& heads : heads_) PrepareBounds(heads);
  HWY_ALIGN float largest[kPageRows];
  for (int64_t begin = first_far(); begin < end_far();) {
    const int64_t end = std::min((begin / kPageRows + 1) * kPageRows, end_far());
    std::fill_n(largest, kPageRows, kLowestLogit);
    for (GuardedHeads& heads : heads_) BoundPage(heads, begin, end - begin, largest);
    TakeLevels(begin, end - begin, largest);
    begin = end;
  }
  float largest_score = 0;
  for (int64_t i = 0; far_scores_ != nullptr && i < in_.span.NumFar(t_); ++i)
    RaiseTo(std::abs(far_scores_[i]), largest_score);
  for (GuardedHeads& heads : heads_) {
    SumLevels(heads);
    FindSlack(heads, largest_score);
  }
}

void GuardedQuery::SumLevels(GuardedHeads& heads) const {
  heads.below.assign(static_cast<size_t>((kLevels + 1) * kHeadLanes), GuaranteeNumerics::kUnderflow);
  for (int64_t i = 0; i < kLevels * kHeadLanes; ++i) {
    const auto at = static_cast<size_t>(i);
    heads.below[at + kHeadLanes] = heads.below[at] + static_cast<double>(heads.masses[i]);
  }
}

// With `distance` that of the far keys.
void GuardedQuery::FindSlack(GuardedHeads& heads, float largest_score) {
  const AttentionSpan& span = in_.span;
  const HeadGroup& group = heads.group;
  const auto see = [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      heads.distance = std::max(heads.distance, args_.codes.Distance(s)[group.kv_head]);
  };
  see(span.First(t_), first_far());
  see(end_far(), span.Position(t_) + 1);
  const auto kv_head = static_cast<size_t>(group.kv_head);
  const double norm =
      static_cast<double>(codebook_.norm[kv_head]) +
      static_cast<double>(distances_[heads.distance]) / static_cast<double>(codebook_.least_weight[kv_head]);
  const double sums = 1 + GuaranteeNumerics::SumError(span.Position(t_) - span.First(t_) + 1);
  for (int64_t h = 0; h < group.rows; ++h) {
    float q_norm = RowNorm(QueryOf(in_.q, group) + h * channels_, channels_);
    RaiseTo(RowNorm(QueryOf(in_.q_rot, group) + h * channels_, channels_), q_norm);
    double scale = static_cast<double>(q_norm) * norm / std::sqrt(static_cast<double>(channels_));
    scale += std::abs(static_cast<double>(in_.sink_logit.data<float>()[group.first_head + h]));
    scale += std::abs(static_cast<double>(heads.bias[h])) / kLog2E * static_cast<double>(largest_score);
    const double slack = 2 * scale * GuaranteeNumerics::LogitError(channels_);
    bounded_ = bounded_ && slack <= GuaranteeNumerics::kMaxSlack;
    heads.slack[h] = std::exp(slack) * sums;
  }
}

// Whether r · rest <= κ (Z / Z_0 + r · read) for every head, where `rest` is below `level`, and `read` of
// what is below read_from the others.
bool GuardedQuery::HoldsFrom(int level, int read_from) const {
  for (const GuardedHeads& heads : heads_) {
    for (int64_t h = 0; h < heads.group.rows; ++h) {
      const double z = std::exp2(static_cast<double>(heads.highest[h]) +
                                 std::log2(static_cast<double>(heads.sum[h])) - heads.first_log2[h]);
      const double rest = heads.below[static_cast<size_t>(level * kHeadLanes + h)];
      const double read = heads.below[static_cast<size_t>(read_from * kHeadLanes + h)] - rest;
      if (!(heads.slack[h] * rest <= kappa_ * (z + heads.slack[h] * read))) return false;
    }
  }
  return true;
}

int GuardedQuery::NextLevel(int read_from) const {
  if (!bounded_) return 1;
  int level = read_from;
  bool has_keys = false;
  do {
    --level;
    has_keys = has_keys || counts_[static_cast<size_t>(level)] > 0;
  } while (level > 1 && !(has_keys && HoldsFrom(level, read_from)));
  return level;
}

// Whether reading down to a level is full attention's.
bool GuardedQuery::ReadsAllFrom(int level) const {
  const auto far = std::accumulate(counts_.begin(), counts_.end(), int64_t{0});
  const auto wanted = std::accumulate(counts_.begin() + level, counts_.end(), int64_t{0});
  return static_cast<double>(wanted) >= GuaranteeNumerics::kAllShare * static_cast<double>(far);
}

// Of the missed mass, the largest of all heads.
float GuardedQuery::Bound(int read_from) const {
  double largest = 0;
  for (const GuardedHeads& heads : heads_) {
    for (int64_t h = 0; h < heads.group.rows; ++h) {
      const double log2_z =
          static_cast<double>(heads.highest[h]) + std::log2(static_cast<double>(heads.sum[h]));
      const double missed = heads.slack[h] * heads.below[static_cast<size_t>(read_from * kHeadLanes + h)] /
                            std::exp2(log2_z - heads.first_log2[h]);
      largest = std::max(largest, missed / (1 + missed));
    }
  }
  return static_cast<float>(largest);
}

void GuardedQuery::Store(const GuardedHeads& heads) const {
  HWY_ALIGN float inverse[kHeadLanes];
  for (int64_t h = 0; h < kHeadLanes; ++h) inverse[h] = 1.0f / heads.sum[h];
  StoreHeads(heads.acc, inverse, heads.group.rows, channels_,
             args_.out.row<float>(t_) + heads.group.first_head * channels_);
}

bool GuardedQuery::Run() {
  for (GuardedHeads& heads : heads_) Start(heads);
  ReadSelected();
  ReadWindow();
  if (num_unread_ > 0) BoundKeys();
  int read_from = kLevels;
  while (num_unread_ > 0 && !(bounded_ && HoldsFrom(read_from, read_from))) {
    const int level = NextLevel(read_from);
    if (ReadsAllFrom(level)) return false;
    ReadLevels(level, read_from);
    read_from = level;
  }
  for (const GuardedHeads& heads : heads_) Store(heads);
  args_.bound.data<float>()[t_] = num_unread_ > 0 ? Bound(read_from) : 0.0f;
  args_.keys_read.data<int32_t>()[t_] =
      static_cast<int32_t>(in_.span.Position(t_) + 1 - in_.span.First(t_) - num_unread_);
  return true;
}

bool RunGuardedQuery(const GuaranteedAttentionArgs& args, const std::vector<HeadGroup>& groups,
                     const CodebookReach& codebook, int64_t t) {
  return GuardedQuery(args, groups, codebook, t).Run();
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(RunGuardedQuery);

namespace {

// Queries [begin, end) of args, over all keys.
FullAttentionArgs FullRows(const GuaranteedAttentionArgs& args, int64_t begin, int64_t end) {
  FullAttentionArgs full{args.in, args.out.Rows(begin, end), {}};
  full.in.q = args.in.q.Rows(begin, end);
  full.in.q_rot = args.in.q_rot.Rows(begin, end);
  full.in.span.query_offset += begin;
  TensorView& starts = full.in.span.segment_start;
  if (starts.present()) starts = starts.Rows(begin, end);
  TensorView& scores = full.in.bias.scores;
  if (scores.present()) scores = scores.Rows(begin, end);
  return full;
}

}  // namespace

void CpuOps::GuaranteedAttention(const GuaranteedAttentionArgs& args) {
  const std::vector<HeadGroup> groups = HeadGroups(args.in.q.dim(1), args.in.k.dim(1));
  const CodebookReach codebook(args.codebook);
  const int64_t tokens = args.in.q.dim(0);
  std::vector<uint8_t> proved(static_cast<size_t>(tokens));
  // The last queries have the most keys: they go first.
  ParallelFor(tokens, [&](int64_t i) {
    const int64_t t = tokens - 1 - i;
    proved[static_cast<size_t>(t)] = HWY_DYNAMIC_DISPATCH(RunGuardedQuery)(args, groups, codebook, t) ? 1 : 0;
  });
  for (int64_t begin = 0; begin < tokens;) {
    int64_t end = begin;
    for (; end < tokens && proved[static_cast<size_t>(end)] == 0; ++end) {
      const AttentionSpan& span = args.in.span;
      args.bound.data<float>()[end] = 0;
      args.keys_read.data<int32_t>()[end] = static_cast<int32_t>(span.Position(end) + 1 - span.First(end));
    }
    if (begin < end) FullAttention(FullRows(args, begin, end));
    begin = std::max(end, begin + 1);
  }
}

}  // namespace sluice
#endif  // HWY_ONCE
