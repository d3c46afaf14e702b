// Sparse attention as in sparse_attention.cc, by the kernels of bfloat16_kernels.h. A tile is some
// neighbouring queries and one head group: their windows are transposed and interleaved once for all of them,
// sinks and chosen keys gathered for each. A query's list is its far keys, in order, then the window, whose
// vectors and pairs begin where the keys' numbers say: what it computes depends on nothing but its own list.
#include <cmath>
#include <limits>

#include "backend/cpu/bfloat16_attention.h"
#include "backend/cpu/bfloat16_kernels.h"
#include "backend/cpu/bfloat16_rows.h"
#include "backend/cpu/head_plan.h"
#include "backend/cpu/key_list.h"
#include "base/threads.h"

#if HWY_ARCH_X86_64

SLUICE_BFLOAT16_BEGIN();
namespace sluice::bfloat16 {
namespace {

constexpr int64_t kTileTokens = 16;
constexpr int64_t kGathered = 64;      // Far keys at a time.
constexpr int64_t kUnit = 2 * kLanes;  // Keys that ExpRow takes at a time.

int64_t RoundDown(int64_t n) {
  return n / kUnit * kUnit;
}
int64_t RoundUp(int64_t n) {
  return RoundDown(n + kUnit - 1);
}

class SparseTile {
 public:
  // Queries [begin, end) and one head group.
  SparseTile(const SparseAttentionArgs& args, const HeadGroup& group, int64_t begin, int64_t end)
      : args_(args),
        in_(args.in),
        head_keys_(in_.k, group.kv_head),
        head_values_(in_.v, group.kv_head),
        group_(group),
        begin_(begin),
        end_(end),
        channels_(in_.q.dim(2)),
        pairs_(channels_ / 2),
        scale_(static_cast<float>(kLog2E / std::sqrt(static_cast<double>(channels_)))),
        window_begin_(RoundDown(in_.span.WindowBegin(begin))),
        window_columns_(RoundUp(in_.span.Position(end - 1) + 1) - window_begin_),
        stride_(RoundUp(in_.span.num_sinks + args.num_selected) + RoundUp(in_.span.window + kUnit)),
        scratch_((pairs_ + channels_ / 2) * (window_columns_ + kGathered) +
                 kHeadLanes * (2 * pairs_ + channels_ + kLanes + 1 + stride_ * 3 / 2) + 16 * 16) {
    window_keys_ = TakePairs(pairs_ * window_columns_);
    window_values_ = TakePairs(window_columns_ / 2 * channels_);
    keys_ = TakePairs(pairs_ * kGathered);
    values_ = TakePairs(kGathered / 2 * channels_);
    q_ = TakePairs(kHeadLanes * pairs_);
    q_rot_ = TakePairs(kHeadLanes * pairs_);
    probs_ = TakePairs(kHeadLanes * stride_ / 2);
    logits_ = scratch_.Take(kHeadLanes * stride_);
    acc_ = scratch_.Take(kHeadLanes * channels_);
    sum_ = scratch_.Take(kHeadLanes * kLanes);
  }

  void Run() {
    for (int64_t t = begin_; t < end_; ++t) {
      lists_.emplace_back(in_.span.num_sinks + args_.num_selected);
      lists_.back().BuildFar(in_.span, args_.candidates, t, args_.num_selected);
    }
    // Nothing before fetched the first query's keys or its window, and a decoded token is a tile of its own.
    for (const HeadRows& rows : {head_keys_, head_values_}) {
      for (int64_t i = 0; i < lists_[0].num_far; ++i) rows.Fetch(lists_[0].key[static_cast<size_t>(i)]);
    }
    FetchWindow();
    PrepareWindow();
    for (int64_t t = begin_; t < end_; ++t) AttendQuery(t);
  }

 private:
  uint32_t* TakePairs(int64_t count) { return reinterpret_cast<uint32_t*>(scratch_.Take(count)); }

  const float* RotatedKey(int64_t key) const {
    return in_.k_rot.row<float>(key - in_.k_rot_begin) + group_.kv_head * channels_;
  }
  HWY_INLINE void FetchWindow() const {
    for (int64_t key = in_.span.WindowBegin(begin_); key <= in_.span.Position(end_ - 1); ++key) {
      for (int64_t c = 0; c < channels_; c += 16) __builtin_prefetch(RotatedKey(key) + c, 0, 2);
      head_values_.Fetch(key);
    }
  }

  // Rotated keys and values of the windows of all queries.
  void PrepareWindow() {
    const int64_t first = in_.span.WindowBegin(begin_);
    const int64_t last = in_.span.Position(end_ - 1);
    const auto rotated = [&](int64_t j) { return RotatedKey(std::clamp(window_begin_ + j, first, last)); };
    TransposeKeys(rotated, window_columns_, channels_, window_columns_, window_keys_);
    InterleaveValues([&](int64_t j) { return head_values_(window_begin_ + j); }, last + 1 - window_begin_,
                     channels_, window_values_);
  }

  void AttendQuery(int64_t t) {
    const auto at = static_cast<size_t>(t - begin_);
    const KeyList& list = lists_[at];
    const int64_t far_columns = RoundUp(list.num_far);
    const int64_t first = RoundDown(in_.span.WindowBegin(t));
    const int64_t columns = far_columns + RoundUp(in_.span.Position(t) + 1) - first;
    const int64_t offset = group_.first_head * channels_;
    for (int64_t h = 0; h < group_.rows; ++h) {
      RoundRow(in_.q.row<float>(t) + offset + h * channels_, channels_, q_ + h * pairs_);
      RoundRow(in_.q_rot.row<float>(t) + offset + h * channels_, channels_, q_rot_ + h * pairs_);
    }
    const KeyList* next = at + 1 < lists_.size() ? &lists_[at + 1] : nullptr;
    FarLogits(list, next);
    ForRows(group_.rows, [&](int64_t row, auto count) {
      DotRows<count()>(window_keys_ + first - window_begin_, window_columns_, columns - far_columns,
                       q_rot_ + row * pairs_, pairs_, scale_, logits_ + row * stride_ + far_columns, stride_);
    });
    for (int64_t h = 0; h < group_.rows; ++h) {
      float* logits = logits_ + h * stride_;
      if (in_.bias.scores.present()) AddBias(list, t, group_.first_head + h, logits);
      Hide(list.num_far, far_columns, logits);
      Hide(far_columns, far_columns + in_.span.WindowBegin(t) - first, logits);
      Hide(far_columns + in_.span.Position(t) + 1 - first, columns, logits);
      SoftmaxRow(h, columns);
    }
    std::fill_n(acc_, group_.rows * channels_, 0.0f);
    AddFarValues(list, next);
    ForRows(group_.rows, [&](int64_t row, auto count) {
      WeightedPairs<count()>(window_values_ + (first - window_begin_) / 2 * channels_, channels_,
                             probs_ + (row * stride_ + far_columns) / 2, stride_ / 2,
                             in_.span.WindowBegin(t) - first, in_.span.Position(t) + 1 - first,
                             acc_ + row * channels_);
    });
    for (int64_t h = 0; h < group_.rows; ++h) {
      const float sum = _mm512_reduce_add_ps(_mm512_loadu_ps(sum_ + h * kLanes));
      StoreRow(acc_ + h * channels_, channels_, 1.0f / sum, args_.out.row<float>(t) + offset + h * channels_);
    }
  }

  static void Hide(int64_t begin, int64_t end, float* logits) {
    for (int64_t j = begin; j < end; ++j) logits[j] = -std::numeric_limits<float>::infinity();
  }

  // Rows of the list from `begin` on; each asked for starts the fetch of the one that the next query has
  // there.
  static auto Gathered(const HeadRows& rows, const KeyList& list, const KeyList* next, int64_t begin) {
    return [&rows, &list, next, begin](int64_t j) {
      const auto i = static_cast<size_t>(begin + j);
      if (next != nullptr && begin + j < next->num_far) rows.Fetch(next->key[i]);
      return rows(list.key[i]);
    };
  }

  void FarLogits(const KeyList& list, const KeyList* next) {
    for (int64_t begin = 0; begin < list.num_far; begin += kGathered) {
      const int64_t n = std::min(kGathered, list.num_far - begin);
      TransposeKeys(Gathered(head_keys_, list, next, begin), n, channels_, kGathered, keys_);
      ForRows(group_.rows, [&](int64_t first, auto count) {
        DotRows<count()>(keys_, kGathered, n, q_ + first * pairs_, pairs_, scale_,
                         logits_ + first * stride_ + begin, stride_);
      });
    }
  }

  void AddFarValues(const KeyList& list, const KeyList* next) {
    for (int64_t begin = 0; begin < list.num_far; begin += kGathered) {
      const int64_t n = std::min(kGathered, list.num_far - begin);
      InterleaveValues(Gathered(head_values_, list, next, begin), n, channels_, values_);
      ForRows(group_.rows, [&](int64_t first, auto count) {
        WeightedPairs<count()>(values_, channels_, probs_ + (first * stride_ + begin) / 2, stride_ / 2, 0, n,
                               acc_ + first * channels_);
      });
    }
  }

  void AddBias(const KeyList& list, int64_t t, int64_t head, float* logits) const {
    const float weight = in_.bias.weight.data<float>()[head] * static_cast<float>(kLog2E);
    const float* scores = in_.bias.scores.row<float>(t);
    for (int64_t j = 0; j < list.num_far; ++j) {
      const int32_t column = list.column[static_cast<size_t>(j)];
      if (column >= 0) logits[j] = std::fma(weight, scores[column], logits[j]);
    }
  }

  // Row h of the logits becomes row h of the weights; the sink logit's own is in the sum.
  void SoftmaxRow(int64_t h, int64_t columns) {
    const float sink = in_.sink_logit.data<float>()[group_.first_head + h] * static_cast<float>(kLog2E);
    const float highest = MaxOfRow(logits_ + h * stride_, columns, sink);
    float* sum = sum_ + h * kLanes;
    std::fill_n(sum, kLanes, 0.0f);
    sum[0] = _mm512_cvtss_f32(Exp2(_mm512_set1_ps(sink - highest)));
    ExpRow(logits_ + h * stride_, columns, highest, probs_ + h * stride_ / 2, sum);
  }

  const SparseAttentionArgs& args_;
  const AttentionInputs& in_;
  HeadRows head_keys_, head_values_;
  const HeadGroup& group_;
  int64_t begin_, end_, channels_, pairs_;
  float scale_;
  int64_t window_begin_;    // First key of the prepared windows, a multiple of kUnit,
  int64_t window_columns_;  // and how many columns they have.
  int64_t stride_;          // Of a row of logits.
  FloatScratch scratch_;
  std::vector<KeyList> lists_;  // The far keys of each query.
  uint32_t* window_keys_;       // [pairs, window_columns], rotated
  uint32_t* window_values_;     // [window_columns / 2, channels]
  uint32_t* keys_;              // [pairs, kGathered]
  uint32_t* values_;            // [kGathered / 2, channels]
  uint32_t *q_, *q_rot_;        // [heads, pairs]
  uint32_t* probs_;             // [heads, stride / 2]
  float* logits_;               // [heads, stride]: far keys, then the window, both padded to kUnit
  float* acc_;                  // [heads, channels], in the order of the pairs
  float* sum_;                  // [heads, kLanes]
};

}  // namespace
}  // namespace sluice::bfloat16
SLUICE_BFLOAT16_END();

namespace sluice {

void BFloat16SparseAttention(const SparseAttentionArgs& args) {
  const std::vector<HeadGroup> groups = HeadGroups(args.in.q.dim(1), args.in.k.dim(1));
  const int64_t num_groups = static_cast<int64_t>(groups.size());
  const int64_t tokens = args.in.q.dim(0);
  const int64_t tiles = (tokens + bfloat16::kTileTokens - 1) / bfloat16::kTileTokens;
  ParallelFor(tiles * num_groups, [&](int64_t task) {
    const int64_t begin = task / num_groups * bfloat16::kTileTokens;
    bfloat16::SparseTile(args, groups[static_cast<size_t>(task % num_groups)], begin,
                         std::min(tokens, begin + bfloat16::kTileTokens))
        .Run();
  });
}

}  // namespace sluice

#else

namespace sluice {

void BFloat16SparseAttention(const SparseAttentionArgs&) {}

}  // namespace sluice

#endif  // HWY_ARCH_X86_64
