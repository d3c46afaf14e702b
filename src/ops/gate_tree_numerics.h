// The arithmetic of the gate's tree index that every backend shares, so that all of them build the same tree
// and find the same keys in it, bit for bit. See GateTreeView in gate.h.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "ops/gate.h"

namespace sluice {

// Of the rms distance in a landmark. On nano's keys before its gate had a bias, with 32,768 of 131,072 keys
// in a group and beams of 256 nodes and 512 leaves, the best 64 had 99.7% of the attention of the flat scan's
// with 0.5, 98.6% with 0.35, 99.7% with 0.7 and 82% with none.
inline constexpr float kGateLandmarkSpread = 0.5f;

// Consecutive slots of one level whose groups hold keys [.., key_end), behind those of the range before.
struct GateTreeRange {
  int64_t first_slot = 0;
  int64_t num_slots = 0;
  int64_t key_end = 0;
};
// What a query searches whose window begins at key w: none without a tree or below min_keys.
std::vector<GateTreeRange> GateTreeRanges(const GateTreeSearch& search, int64_t w);

// Keys and landmarks that the query scores whose far keys are [first_far, w).
int64_t NumScoredKeys(const GateTreeSearch& search, int64_t first_far, int64_t w);

// Calls body(first_key, first_slot, num_keys) for the groups whose last key is in [first_key, end_key).
void ForEachClosedGroup(const GateTreeShape& shape, int64_t first_key, int64_t end_key,
                        const std::function<void(int64_t, int64_t, int64_t)>& body);

// The values scale · code of keys [begin, begin + count), [count, size].
std::vector<float> GateKeyValues(const GateKeyView& keys, int64_t begin, int64_t count, int64_t size);

// Divides members (rows of x [.., size], ascending, an even number) into two halves, each ascending: those
// below and above the median of the projections, ties by row, on the axis of largest variance. That axis
// comes from a fixed number of power iterations over up to 128 members.
void SplitGateMembers(const float* x, int64_t size, std::span<int32_t> members);

// landmark [size + 2] of the members.
void GateLandmark(const float* x, int64_t size, std::span<const int32_t> members, float* landmark);

// A head's query for landmarks, [size + 2]. Values that are not finite count as zero in its norm.
void ExtendGateQuery(const float* gq, int64_t size, float* extended);

// Packs x [size] as key s.
void StoreGateKey(const float* x, int64_t size, int64_t s, const GateKeyView& keys);
// Copies key `from` of `source` to key `to` of `destination`.
void CopyGateKey(const GateKeyView& source, int64_t from, int64_t size, const GateKeyView& destination,
                 int64_t to);
// Whether key i of `a` and key j of `b` have the same scale and codes.
bool SameGateKey(const GateKeyView& a, int64_t i, const GateKeyView& b, int64_t j, int64_t size);

}  // namespace sluice
