// Full attention as in attention.cc, by the kernels of bfloat16_kernels.h. A tile is some neighbouring
// queries and the heads that share a key/value head, a row each. The rows pass over the keys in blocks of one
// page, which are transposed and interleaved once for all of them, with an online softmax of every kChunk
// keys, and add up the chunks in order. So chunks may be computed side by side (Dao et al., "Flash-Decoding",
// 2023), and what a row computes depends on its own keys alone: chunks, blocks and pairs of values begin
// where the keys' numbers say.
#include "backend/cpu/bfloat16_attention.h"

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "backend/cpu/bfloat16_kernels.h"
#include "backend/cpu/bfloat16_rows.h"
#include "backend/cpu/head_plan.h"
#include "backend/cpu/key_block.h"
#include "backend/cpu/targets.h"
#include "base/threads.h"

#if HWY_ARCH_X86_64

SLUICE_BFLOAT16_BEGIN();
namespace sluice::bfloat16 {
namespace {

constexpr int64_t kTileRows = 96;  // About: they share what a block's preparation costs.
constexpr int64_t kChunk = 8 * kKeyBlock;
// Of so few rows, heads of all queries, the chunks are shared out among the threads.
constexpr int64_t kFewRows = 32;

// The softmax of some rows over some keys, not yet divided by its sum.
struct SoftmaxRows {
  float* acc;      // [rows, channels], in the order of the pairs
  float* sum;      // [rows, kLanes]
  float* highest;  // [rows]: the logit that weighs 1

  static int64_t Floats(int64_t rows, int64_t channels) { return rows * (channels + kLanes + 1); }
  static SoftmaxRows In(float* memory, int64_t rows, int64_t channels) {
    return {memory, memory + rows * channels, memory + rows * (channels + kLanes)};
  }
};

// Of no key.
void Clear(const SoftmaxRows& part, int64_t rows, int64_t channels) {
  std::fill_n(part.acc, rows * channels, 0.0f);
  std::fill_n(part.sum, rows * kLanes, 0.0f);
  std::fill_n(part.highest, rows, kLowestLogit);
}

// a [n] = a · a_factor + b · b_factor
void AddScaled(float a_factor, float b_factor, int64_t n, const float* b, float* a) {
  const __m512 fa = _mm512_set1_ps(a_factor);
  const __m512 fb = _mm512_set1_ps(b_factor);
  for (int64_t c = 0; c < n; c += kLanes) {
    const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(b + c), fb);
    _mm512_storeu_ps(a + c, _mm512_fmadd_ps(_mm512_loadu_ps(a + c), fa, scaled));
  }
}

// The keys of `part` join those of `total`.
void Merge(const SoftmaxRows& part, int64_t rows, int64_t channels, const SoftmaxRows& total) {
  for (int64_t r = 0; r < rows; ++r) {
    const float highest = std::max(total.highest[r], part.highest[r]);
    const float before = _mm512_cvtss_f32(Exp2(_mm512_set1_ps(total.highest[r] - highest)));
    const float added = _mm512_cvtss_f32(Exp2(_mm512_set1_ps(part.highest[r] - highest)));
    AddScaled(before, added, channels, part.acc + r * channels, total.acc + r * channels);
    AddScaled(before, added, kLanes, part.sum + r * kLanes, total.sum + r * kLanes);
    total.highest[r] = highest;
  }
}

class FullTile {
 public:
  // Queries [begin, end) and one head group.
  FullTile(const FullAttentionArgs& args, const HeadGroup& group, int64_t begin, int64_t end)
      : args_(args),
        in_(args.in),
        head_keys_(in_.k, group.kv_head),
        head_values_(in_.v, group.kv_head),
        group_(group),
        begin_(begin),
        end_(end),
        channels_(in_.q.dim(2)),
        pairs_(channels_ / 2),
        rows_((end - begin) * group.rows),
        scale_(static_cast<float>(kLog2E / std::sqrt(static_cast<double>(channels_)))),
        scratch_(rows_ * 2 * pairs_ + 2 * pairs_ * kKeyBlock + kKeyBlock / 2 * channels_ +
                 kMaxRows * kKeyBlock * 5 / 2 + 16 * 16) {
    q_ = TakePairs(rows_ * pairs_);
    q_rot_ = TakePairs(rows_ * pairs_);
    keys_ = TakePairs(pairs_ * kKeyBlock);
    rot_keys_ = TakePairs(pairs_ * kKeyBlock);
    values_ = TakePairs(kKeyBlock / 2 * channels_);
    probs_ = TakePairs(kMaxRows * kKeyBlock / 2);
    logits_ = scratch_.Take(kMaxRows * kKeyBlock);
    rot_logits_ = scratch_.Take(kMaxRows * kKeyBlock);
    for (int64_t r = 0; r < rows_; ++r) {
      RoundRow(in_.q.row<float>(Query(r)) + Head(r) * channels_, channels_, q_ + r * pairs_);
      RoundRow(in_.q_rot.row<float>(Query(r)) + Head(r) * channels_, channels_, q_rot_ + r * pairs_);
    }
  }

  int64_t rows() const { return rows_; }

  // `part` of all rows takes in the block of keys from `block` on. Keys of the next one below fetch_end are
  // fetched meanwhile.
  void AddBlock(int64_t block, int64_t fetch_end, const SoftmaxRows& part) {
    part_ = part;
    PrepareBlock(block, std::min(block + kKeyBlock, in_.span.Position(end_ - 1) + 1), fetch_end);
    ForRows(rows_, [&](int64_t first, auto count) { AttendBlock<count()>(block, first); });
  }

  // The sink logit is the first maximum, so that its own term of the sum is 1.
  void Start(const SoftmaxRows& total) const {
    Clear(total, rows_, channels_);
    for (int64_t r = 0; r < rows_; ++r) {
      const float sink = in_.sink_logit.data<float>()[Head(r)] * static_cast<float>(kLog2E);
      total.highest[r] = std::max(sink, kLowestLogit);
      total.sum[r * kLanes] = sink < kLowestLogit ? 0.0f : 1.0f;
    }
  }

  void Store(const SoftmaxRows& total) const {
    for (int64_t r = 0; r < rows_; ++r) {
      const float sum = _mm512_reduce_add_ps(_mm512_loadu_ps(total.sum + r * kLanes));
      StoreRow(total.acc + r * channels_, channels_, 1.0f / sum,
               args_.out.row<float>(Query(r)) + Head(r) * channels_);
      if (!args_.lse.present()) continue;
      args_.lse.row<float>(Query(r))[Head(r)] =
          static_cast<float>(static_cast<double>(total.highest[r]) / kLog2E + std::log(sum));
    }
  }

 private:
  uint32_t* TakePairs(int64_t count) { return reinterpret_cast<uint32_t*>(scratch_.Take(count)); }
  int64_t Query(int64_t row) const { return begin_ + row / group_.rows; }
  int64_t Head(int64_t row) const { return group_.first_head + row % group_.rows; }

  // Transposed and interleaved keys and values of [block, end).
  void PrepareBlock(int64_t block, int64_t end, int64_t fetch_end) {
    const int64_t next = block + kKeyBlock;
    const int64_t next_rows = std::min(kKeyBlock, fetch_end - next);
    // Rows of a page lie one after another.
    const auto fetching = [&](const HeadRows& rows) {
      const uint16_t* own = rows(block);
      const uint16_t* ahead = next_rows > 0 ? rows(next) : nullptr;
      return [&rows, own, ahead, next_rows](int64_t j) {
        if (j < next_rows) rows.FetchRow(ahead + j * rows.stride);
        return own + j * rows.stride;
      };
    };
    if (block < in_.span.WindowBegin(end_ - 1)) {
      TransposeKeys(fetching(head_keys_), end - block, channels_, kKeyBlock, keys_);
    }
    const int64_t first_rotated = std::max(block, in_.span.WindowBegin(begin_));
    if (first_rotated < end) {
      const auto rotated = [&](int64_t j) {
        return in_.k_rot.row<float>(std::max(block + j, first_rotated) - in_.k_rot_begin) +
               group_.kv_head * channels_;
      };
      TransposeKeys(rotated, end - block, channels_, kKeyBlock, rot_keys_);
    }
    InterleaveValues(fetching(head_values_), end - block, channels_, values_);
  }

  // Rows [first, first + kRows) and the prepared block.
  template <int kRows>
  void AttendBlock(int64_t block, int64_t first) {
    BlockRange ranges[kRows];
    bool any = false, any_far = false, any_rotated = false, all_whole = true;
    for (int r = 0; r < kRows; ++r) {
      const BlockRange& range = ranges[r] = BlockRange(in_.span, Query(first + r), block);
      if (range.begin >= range.end) {
        ranges[r].end = ranges[r].window = range.begin;
        all_whole = false;
        continue;
      }
      any = true;
      any_far = any_far || range.begin < range.window;
      any_rotated = any_rotated || range.window < range.end;
      all_whole = all_whole && range.begin == block && range.end == block + kKeyBlock;
    }
    if (!any) return;
    const auto dots = [&](const uint32_t* keys, const uint32_t* q, float* out) {
      DotRows<kRows>(keys, kKeyBlock, kKeyBlock, q + first * pairs_, pairs_, scale_, out, kKeyBlock);
    };
    if (any_far) dots(keys_, q_, logits_);
    if (any_rotated) dots(rot_keys_, q_rot_, rot_logits_);
    for (int r = 0; r < kRows; ++r) SoftmaxRow(first + r, r, ranges[r], block);
    if (all_whole) {
      WeightedPairs<kRows>(values_, channels_, probs_, kKeyBlock / 2, 0, kKeyBlock,
                           part_.acc + first * channels_);
      return;
    }
    for (int r = 0; r < kRows;) {  // The rows of one query see the same keys.
      const int same =
          static_cast<int>(std::min<int64_t>(kRows - r, group_.rows - (first + r) % group_.rows));
      ForRows(same, [&](int64_t i, auto count) {
        WeightedPairs<count()>(values_, channels_, probs_ + (r + i) * kKeyBlock / 2, kKeyBlock / 2,
                               ranges[r].begin - block, ranges[r].end - block,
                               part_.acc + (first + r + i) * channels_);
      });
      r += same;
    }
  }

  // The online softmax of a row: row r of the logits becomes row r of the weights.
  void SoftmaxRow(int64_t row, int64_t r, const BlockRange& range, int64_t block) {
    float* logits = logits_ + r * kKeyBlock;
    MergeLogits(Query(row), Head(row), range, block, rot_logits_ + r * kKeyBlock, logits);
    const float highest = MaxOfRow(logits, kKeyBlock, part_.highest[row]);
    if (highest != part_.highest[row]) {
      const float factor = _mm512_cvtss_f32(Exp2(_mm512_set1_ps(part_.highest[row] - highest)));
      ScaleRow(factor, channels_, part_.acc + row * channels_);
      ScaleRow(factor, kLanes, part_.sum + row * kLanes);
      part_.highest[row] = highest;
    }
    ExpRow(logits, kKeyBlock, highest, probs_ + r * kKeyBlock / 2, part_.sum + row * kLanes);
  }

  // Rotated logits in the window, −infinity where the query does not see the key, and the bias of far keys.
  void MergeLogits(int64_t t, int64_t head, const BlockRange& range, int64_t block, const float* rotated,
                   float* logits) {
    const bool whole_far =
        range.begin == block && range.window == block + kKeyBlock && !in_.bias.scores.present();
    if (whole_far) return;
    const auto below = [&](int64_t key) { return key - block >= 64 ? ~0ull : (1ull << (key - block)) - 1; };
    const uint64_t far = below(range.window) & ~below(range.begin);
    const uint64_t window = below(range.end) & ~below(range.window);
    for (int64_t j = 0; j < kKeyBlock; j += kLanes) {
      __m512 x = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
      x = _mm512_mask_loadu_ps(x, static_cast<__mmask16>(far >> j), logits + j);
      x = _mm512_mask_loadu_ps(x, static_cast<__mmask16>(window >> j), rotated + j);
      _mm512_storeu_ps(logits + j, x);
    }
    if (!in_.bias.scores.present()) return;
    const FarPart part(in_.span, t, range);
    const float weight = in_.bias.weight.data<float>()[head] * static_cast<float>(kLog2E);
    const float* scores = in_.bias.scores.row<float>(t) - in_.span.SinksEnd(t);
    for (int64_t key = part.begin; key < part.begin + part.count; ++key) {
      logits[key - block] = std::fma(weight, scores[key], logits[key - block]);
    }
  }

  const FullAttentionArgs& args_;
  const AttentionInputs& in_;
  HeadRows head_keys_, head_values_;
  const HeadGroup& group_;
  int64_t begin_, end_, channels_, pairs_, rows_;
  float scale_;
  FloatScratch scratch_;
  uint32_t *q_, *q_rot_;        // [rows, pairs]
  uint32_t *keys_, *rot_keys_;  // [pairs, kKeyBlock]
  uint32_t* values_;            // [kKeyBlock / 2, channels]
  uint32_t* probs_;             // [kMaxRows, kKeyBlock / 2]
  SoftmaxRows part_ = {};
  float *logits_, *rot_logits_;  // [kMaxRows, kKeyBlock]
};

struct ChunkRange {
  int64_t begin;
  int64_t end;
};
ChunkRange ChunksOf(const AttentionSpan& span, int64_t first_query, int64_t last_query) {
  return {span.First(first_query) / kChunk, span.Position(last_query) / kChunk + 1};
}

// Queries [begin, end) of one head group, over all their keys.
void AttendTile(const FullAttentionArgs& args, const HeadGroup& group, int64_t begin, int64_t end) {
  FullTile tile(args, group, begin, end);
  const int64_t channels = args.in.q.dim(2);
  const int64_t floats = SoftmaxRows::Floats(tile.rows(), channels);
  FloatScratch scratch(2 * floats + 32);
  const SoftmaxRows total = SoftmaxRows::In(scratch.Take(floats), tile.rows(), channels);
  const SoftmaxRows part = SoftmaxRows::In(scratch.Take(floats), tile.rows(), channels);
  tile.Start(total);
  const int64_t keys_end = args.in.span.Position(end - 1) + 1;
  const ChunkRange chunks = ChunksOf(args.in.span, begin, end - 1);
  for (int64_t chunk = chunks.begin; chunk < chunks.end; ++chunk) {
    Clear(part, tile.rows(), channels);
    for (int64_t block = chunk * kChunk; block < std::min((chunk + 1) * kChunk, keys_end);
         block += kKeyBlock) {
      if (block + kKeyBlock > args.in.span.First(begin)) tile.AddBlock(block, keys_end, part);
    }
    Merge(part, tile.rows(), channels, total);
  }
  tile.Store(total);
}

// The same for all queries, a task for each chunk: it reads whole pages, all heads of one after the other.
void AttendByChunks(const FullAttentionArgs& args, const std::vector<HeadGroup>& groups) {
  const int64_t tokens = args.in.q.dim(0), channels = args.in.q.dim(2);
  const int64_t all_rows = tokens * args.in.q.dim(1);
  const int64_t keys_end = args.in.span.Position(tokens - 1) + 1;
  const ChunkRange chunks = ChunksOf(args.in.span, 0, tokens - 1);
  const int64_t floats = SoftmaxRows::Floats(all_rows, channels);
  const int64_t num_chunks = chunks.end - chunks.begin;
  FloatScratch scratch(num_chunks * floats + 16);
  float* parts = scratch.Take(num_chunks * floats);
  // Rows of a group lie together, as they do in its tile.
  const auto part_of = [&](int64_t i, const HeadGroup& group) {
    return SoftmaxRows::In(parts + i * floats + SoftmaxRows::Floats(tokens * group.first_head, channels),
                           tokens * group.rows, channels);
  };
  ParallelFor(num_chunks, [&](int64_t i) {
    std::vector<std::unique_ptr<FullTile>> tiles;
    for (const HeadGroup& group : groups) {
      tiles.push_back(std::make_unique<FullTile>(args, group, 0, tokens));
      Clear(part_of(i, group), tokens * group.rows, channels);
    }
    const int64_t chunk = (chunks.begin + i) * kChunk;
    const int64_t end = std::min(chunk + kChunk, keys_end);
    for (int64_t block = chunk; block < end; block += kKeyBlock) {
      if (block + kKeyBlock <= args.in.span.First(0)) continue;
      for (size_t g = 0; g < groups.size(); ++g) tiles[g]->AddBlock(block, end, part_of(i, groups[g]));
    }
  });
  for (const HeadGroup& group : groups) {
    const int64_t rows = tokens * group.rows;
    const FullTile tile(args, group, 0, tokens);
    FloatScratch own(SoftmaxRows::Floats(rows, channels) + 16);
    const SoftmaxRows total = SoftmaxRows::In(own.Take(SoftmaxRows::Floats(rows, channels)), rows, channels);
    tile.Start(total);
    for (int64_t i = 0; i < num_chunks; ++i) Merge(part_of(i, group), rows, channels, total);
    tile.Store(total);
  }
}

}  // namespace
}  // namespace sluice::bfloat16
SLUICE_BFLOAT16_END();

namespace sluice {

bool TakesBFloat16Attention(const AttentionInputs& in) {
  static const bool has_dots = __builtin_cpu_supports("avx512bf16") > 0;
  return has_dots && UsesAvx512() && in.k.dtype() == DType::kBF16 && in.v.dtype() == DType::kBF16 &&
         in.q.dim(2) % kBFloat16HeadUnit == 0;
}

void BFloat16FullAttention(const FullAttentionArgs& args) {
  const std::vector<HeadGroup> groups = HeadGroups(args.in.q.dim(1), args.in.k.dim(1));
  const int64_t num_groups = static_cast<int64_t>(groups.size());
  const int64_t tokens = args.in.q.dim(0);
  if (tokens == 0) return;
  const bfloat16::ChunkRange chunks = bfloat16::ChunksOf(args.in.span, 0, tokens - 1);
  // Chunks are shared out unless head groups keep more threads busy; the results have the same bits.
  if (tokens * args.in.q.dim(1) <= bfloat16::kFewRows &&
      chunks.end - chunks.begin >= std::min<int64_t>(NumThreads(), num_groups)) {
    return bfloat16::AttendByChunks(args, groups);
  }
  const int64_t tile = std::max<int64_t>(1, bfloat16::kTileRows / groups.front().rows);
  const int64_t tiles = (tokens + tile - 1) / tile;
  ParallelFor(tiles * num_groups, [&](int64_t task) {
    const int64_t begin = task / num_groups * tile;
    bfloat16::AttendTile(args, groups[static_cast<size_t>(task % num_groups)], begin,
                         std::min(tokens, begin + tile));
  });
}

}  // namespace sluice

#else

namespace sluice {

bool TakesBFloat16Attention(const AttentionInputs&) {
  return false;
}
void BFloat16FullAttention(const FullAttentionArgs&) {}

}  // namespace sluice

#endif  // HWY_ARCH_X86_64
