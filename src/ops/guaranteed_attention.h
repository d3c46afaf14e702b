// Attention that proves what it did not read. A query reads window, sinks, selected keys and the newest far
// keys whose block has not closed; then whole blocks of 64 keys, until for every head the softmax mass of all
// keys left out is at most ε.
//
// A block b of far keys is bounded by its keys' centre c_b and radius r_b >= max |k − c_b|: with n_b its far
// keys that are not selected, every one of them has
//   logit(h, s) <= B(h, b) = (q_h · c_b + |q_h| r_b) / √d + max_s bias_h(s)
// and so, with Z the denominator of what was read (the sink logit included) and U = Σ n_b exp(B) over the
// blocks not read,   missed mass <= ρ U / (Z + ρ U).
// ρ is what float32 could have got wrong, and a little more, so that the bound holds in spite of rounding:
//   ρ_h = exp(2 e_h) (1 + 2^-10 + keys · 2^-26)
//   e_h = (d + 32) 2^-23 (|q_h| N / √d + |bias weight_h| S + |sink_logit_h|)
// with |q_h| the larger of q and q_rot, N the largest norm of the query's keys and S the largest
// |score| of its bias.
// A product of d terms is off by at most d 2^-24 |q| |k|, however it is summed, so a logit or bound is off by
// less than e_h, and Z and U by less than a factor exp(e_h) each. The other factor is for the sums: one
// addition and at most two rescalings per block of 64 keys, and the 64 keys of a block. Where 2 e_h is beyond
// kMaxSlack nothing is proved from bounds: all blocks are read.
//
// Blocks are read in rounds. A head is open while ρ U > κ Z, κ = ε / (1 − ε). With the blocks not read in
// order of max over open heads of n_b exp(B) / Z, ties to the lower block, a round reads the first m of them:
// the least m for which every open head could be closed at best, ρ (U − u_m) <= κ (Z + ρ u_m), u_m the first
// m terms of U, but no fewer than an eighth of the blocks read in rounds so far. Fewer than m would not do,
// so rounds read at most an eighth more than one block at a time would; and there are few of them, however
// large ε is. A query's result depends on nothing but its own keys; in the worst case it is full attention's.
#pragma once

#include <cmath>

#include "ops/attention.h"
#include "tensor/tensor.h"

namespace sluice {

// What is kept of every block of 64 keys: 136 bytes at head size 64, 0.8% of keys and values in bfloat16 and
// 1.6% of those in int8. Block b is row map.Page(b) of the tensors.
struct KeyBlockView {
  static constexpr int64_t kBlock = kPageRows;
  TensorView centre;       // bf16 [capacity, kv_heads, head_size]
  TensorView radius;       // [capacity, kv_heads]
  TensorView norm;         // [capacity, kv_heads]: the largest of the block's keys
  int64_t num_blocks = 0;  // Blocks [0, num_blocks) are filled.
  PageMap map = {};

  uint16_t* Centre(int64_t block) const {
    return static_cast<uint16_t*>(centre.raw()) + map.Page(block) * centre.row_stride();
  }
  template <class T>
  T* Radius(int64_t block) const {
    return radius.row<T>(map.Page(block));
  }
  template <class T>
  T* Norm(int64_t block) const {
    return norm.row<T>(map.Page(block));
  }
};

// Fills blocks [first_block, end_block) from the rows of k: centre = mean of the keys, rounded,
//   radius = (1 + 2^-16) max |k − centre| + 2^-60,  norm = (1 + 2^-16) max |k| + 2^-60
// where the additions are more than rounding may take away. Norms are computed in float64: no overflow.
struct SummarizeKeysArgs {
  KeyRows k;
  int64_t first_block = 0;
  int64_t end_block = 0;  // REQUIRES: at most k.num_rows / 64
  KeyBlockView blocks;    // Written. REQUIRES: room for the blocks; num_blocks is not looked at.
};

struct GuaranteedAttentionArgs {
  AttentionInputs in;  // A bias has a column for every far key, as in full attention.
  // i32 [tokens, width]: far keys of each query, -1 where absent, no key twice. All are read.
  TensorView candidates;
  KeyBlockView blocks;  // REQUIRES: filled for all keys before every query's window, but for the last 63.
  double epsilon = 0;   // REQUIRES: 0 < ε < 1
  TensorView out;       // [tokens, query_heads, head_size]
  TensorView bound;     // [tokens]: of the missed mass, the largest of all heads; <= ε, 0 where all was read
  TensorView keys_read;  // i32 [tokens]: window, sinks, selected and visited keys
};

// The numbers in the formulas above, the same in every backend.
struct GuaranteeNumerics {
  static constexpr double kMargin = 0x1p-16;     // Of radius and norm; κ is less by as much.
  static constexpr double kSmallest = 0x1p-60;   // What squares may lose to underflow.
  static constexpr int64_t kRoundShare = 8;      // A round is at least 1/8 of what rounds have read.
  static constexpr double kMaxSlack = 1;         // Of 2 e_h.
  static constexpr double kUnderflow = 0x1p-90;  // Of U / Z: more than terms flushed to zero sum to.
  static constexpr double kMaxTermLog2 = 100;    // Of n exp(B) / Z: beyond, all that matters is that it is.

  static double LogitError(int64_t head_size) { return static_cast<double>(head_size + 32) * 0x1p-23; }
  static double SumError(int64_t num_keys) { return 0x1p-10 + static_cast<double>(num_keys) * 0x1p-26; }
  // A little less, so that a bound that is rounded to float32 is still at most ε.
  static double Kappa(double epsilon) { return epsilon / (1 - epsilon) * (1 - kMargin); }
};

// The far keys of one query by how they are read: [SinksEnd, blocks_end) in blocks, of which the first may be
// cut short by the sinks; [blocks_end, WindowBegin), less than a block, always. Blocks end before the window,
// so that none holds a key that the query does not see.
struct FarBlocks {
  int64_t first_key = 0;
  int64_t end_key = 0;
  int64_t first_block = 0;
  int64_t end_block = 0;  // No blocks: equal to first_block, and end_key = first_key.

  FarBlocks(const AttentionSpan& span, int64_t t) : first_key(span.SinksEnd(t)), end_key(first_key) {
    constexpr int64_t kBlock = KeyBlockView::kBlock;
    first_block = end_block = first_key / kBlock;
    const int64_t last = span.WindowBegin(t) / kBlock;
    if (last * kBlock <= first_key) return;
    end_block = last;
    end_key = last * kBlock;
  }
};

}  // namespace sluice
