// Speculation: whether, and how far ahead, drafted tokens are worth checking. A pass over the newest token
// and n drafted ones gives the logits of n + 1 places; those up to the first draft that is not drawn are the
// logits of plain decoding, bit for bit. So speculation changes the time of an answer, and nothing else.
//
// With a the share of drafts that are right, as long as those before were, n of them give
//   (1 + a + a² + ... + aⁿ) / c(n) tokens a second,   c(n) = c(0) + n d seconds a pass.
// a, c(0) and d are running means. A draft that is not checked counts for a all the same: it is compared with
// what is drawn. Where checking does not pay, one pass in kProbeInterval still does it, so that d stays
// known.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cache/kv_cache.h"

namespace sluice {

class Speculation {
 public:
  static constexpr int64_t kMaxDraft = KvCache::kMaxTail - 1;
  static constexpr int64_t kProbeInterval = 64;

  // A pass checks at most `max_draft` tokens, 0 to kMaxDraft; 0: never any.
  explicit Speculation(int64_t max_draft);

  // Tokens for the next pass to check behind the newest of `tokens`, at most `most` of them; often none.
  // `tokens` only grow from one call to the next.
  std::vector<int32_t> Draft(std::span<const int32_t> tokens, int64_t most);
  // A pass with so many drafted tokens has taken this long.
  void PassDone(int64_t num_drafted, double seconds);

 private:
  // Compares the last draft with what has come.
  void Learn(std::span<const int32_t> tokens);
  // Of at most `most` drafted tokens, how many pay.
  int64_t BestCount(int64_t most) const;

  int64_t max_draft_;
  std::vector<int32_t> foreseen_;  // The last draft, also where it was not checked.
  size_t foreseen_behind_ = 0;     // Tokens that it was made from.
  int64_t not_checked_ = 0;        // Drafts in a row.
  double acceptance_ = 0.5;        // a; at first as good as a coin.
  double pass_seconds_ = 0;        // c(0); 0: not known yet.
  double draft_seconds_ = -1;      // d; below 0: not known yet.
};

}  // namespace sluice
