// The pair table is open addressing with linear probing; a lookup is usually one cache line.
#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <queue>

#include "base/check.h"

namespace sluice {
namespace {

size_t HashPair(uint64_t pair, int shift) {
  return static_cast<size_t>(((pair ^ pair >> 29) * 0x9E3779B97F4A7C15u) >> shift);
}

}  // namespace

BpeMerger::BpeMerger(std::span<const BpeMerge> merges, const std::array<int32_t, 256>& byte_ids)
    : byte_ids_(byte_ids) {
  const size_t capacity = std::bit_ceil(std::max<size_t>(16, 2 * merges.size()));
  shift_ = 64 - std::countr_zero(capacity);
  slots_.resize(capacity);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const BpeMerge& merge = merges[rank];
    const uint64_t key = PairKey(merge.left, merge.right);
    size_t i = HashPair(key, shift_);
    while (slots_[i].rank != kNoRank && slots_[i].pair != key) i = (i + 1) & (capacity - 1);
    slots_[i] = {key, static_cast<uint32_t>(rank), merge.result};
  }
}

const BpeMerger::Slot& BpeMerger::Find(int32_t left, int32_t right) const {
  const uint64_t key = PairKey(left, right);
  size_t i = HashPair(key, shift_);
  while (slots_[i].pair != key && slots_[i].rank != kNoRank) i = (i + 1) & (slots_.size() - 1);
  return slots_[i];
}

size_t BpeMerger::Encode(std::string_view piece, int32_t* out) const {
  return piece.size() <= kMaxShort ? EncodeShort(piece, out) : EncodeLong(piece, out);
}

size_t BpeMerger::EncodeShort(std::string_view piece, int32_t* out) const {
  struct Pair {
    uint32_t rank;
    int32_t result;
  };
  Pair pairs[kMaxShort];  // pairs[i] is that of out[i] and out[i + 1].
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i) out[i] = byte_ids_[static_cast<uint8_t>(piece[i])];
  const auto look_up = [&](size_t i) {
    const Slot& slot = Find(out[i], out[i + 1]);
    pairs[i] = {slot.rank, slot.result};
  };
  for (size_t i = 0; i + 1 < count; ++i) look_up(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNoRank) break;
    out[best] = pairs[best].result;
    std::copy(out + best + 2, out + count, out + best + 1);
    std::copy(pairs + best + 1, pairs + count - 1, pairs + best);
    --count;
    if (best > 0) look_up(best - 1);
    if (best + 1 < count) look_up(best);
  }
  return count;
}

size_t BpeMerger::EncodeLong(std::string_view piece, int32_t* out) const {
  SLUICE_CHECK_LT(piece.size(), size_t{std::numeric_limits<uint32_t>::max()});
  const auto count = static_cast<uint32_t>(piece.size());
  struct Candidate {
    uint32_t rank;
    uint32_t pos;
    int32_t left;
    int32_t right;
    int32_t result;
    // Lowest rank first, then leftmost: std::priority_queue keeps the greatest on top.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : pos > other.pos;
    }
  };
  // A list of tokens threaded through the byte positions; a merged-away position has token -1.
  std::vector<int32_t> tokens(count);
  std::vector<uint32_t> next(count), previous(count);
  for (uint32_t i = 0; i < count; ++i) {
    tokens[i] = byte_ids_[static_cast<uint8_t>(piece[i])];
    next[i] = i + 1;
    previous[i] = i - 1;
  }
  std::vector<Candidate> candidates;
  const auto candidate_at = [&](uint32_t pos) {
    const int32_t left = tokens[pos], right = tokens[next[pos]];
    const Slot& slot = Find(left, right);
    return Candidate{slot.rank, pos, left, right, slot.result};
  };
  for (uint32_t i = 0; i + 1 < count; ++i) {
    const Candidate candidate = candidate_at(i);
    if (candidate.rank != kNoRank) candidates.push_back(candidate);
  }
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(candidates));
  const auto push = [&](uint32_t pos) {
    const Candidate candidate = candidate_at(pos);
    if (candidate.rank != kNoRank) queue.push(candidate);
  };
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const uint32_t right = next[top.pos];
    // Stale once either side has changed.
    if (tokens[top.pos] != top.left || right >= count || tokens[right] != top.right) continue;
    tokens[top.pos] = top.result;
    tokens[right] = -1;
    next[top.pos] = next[right];
    if (next[right] < count) {
      previous[next[right]] = top.pos;
      push(top.pos);
    }
    if (top.pos > 0) push(previous[top.pos]);
  }
  size_t num_tokens = 0;
  for (uint32_t i = 0; i < count; i = next[i]) out[num_tokens++] = tokens[i];
  return num_tokens;
}

}  // namespace sluice
