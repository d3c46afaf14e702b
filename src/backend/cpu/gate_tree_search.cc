// Search of a gate tree: landmarks and the keys of the chosen leaves are scored by the kernels of the scan.
// Every level keeps its `beam` best by a bound found in all its scores, so that nothing is sorted.
#include "backend/cpu/gate_tree_search.h"

#include <algorithm>
#include <bit>
#include <span>
#include <utility>
#include <vector>

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/gate_tree_search.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/gate_scores-inl.h"
// clang-format on

#ifndef SLUICE_BACKEND_CPU_GATE_TREE_SEARCH_ONCE
#define SLUICE_BACKEND_CPU_GATE_TREE_SEARCH_ONCE
namespace sluice {
// Groups that are fetched before they are scored: 4 and 16 were no faster.
constexpr int64_t kFetchAhead = 8;

inline int64_t FirstNode(const GateTreeRange& range) {
  return range.first_slot / GateTreeView::kNode;
}
inline int64_t EndNode(const GateTreeRange& range) {
  return FirstNode(range) + range.num_slots / GateTreeView::kNode;
}
}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// Groups lie anywhere: the one that will be scored as i-th, if there is one, is fetched. Always inlined: GCC
// drops calls of a function that does nothing but prefetch.
HWY_INLINE void FetchGroup(std::span<const int32_t> groups, int64_t i, const int8_t* packed, int64_t bytes,
                           const uint16_t* scale_bits) {
  if (i >= std::ssize(groups)) return;
  const int64_t group = groups[static_cast<size_t>(i)];
  for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(packed + group * bytes + byte, 0, 2);
  __builtin_prefetch(scale_bits + group * kGroup, 0, 2);
}

// Exact scores of listed groups of 16 keys or landmarks, [count, 16].
void ScoreGroups(const GateKeyView& keys, std::span<const int32_t> groups, const ScanQuery& query,
                 int64_t heads, int64_t size, float* HWY_RESTRICT scores) {
  const int8_t* packed = static_cast<const int8_t*>(keys.packed.raw());
  const uint16_t* scale_bits = static_cast<const uint16_t*>(keys.scale.raw());
  const auto count = static_cast<int64_t>(groups.size());
  const int64_t bytes = kGroup * size;
  HWY_ALIGN float scale[2 * kGroup];
  int64_t i = 0;
#if HWY_TARGET == HWY_AVX3
  for (; i + 2 <= count; i += 2) {
    FetchGroup(groups, i + kFetchAhead, packed, bytes, scale_bits);
    FetchGroup(groups, i + kFetchAhead + 1, packed, bytes, scale_bits);
    const int64_t a = groups[static_cast<size_t>(i)], b = groups[static_cast<size_t>(i + 1)];
    WidenScales(scale_bits + a * kGroup, kGroup, kGroup, scale);
    WidenScales(scale_bits + b * kGroup, kGroup, kGroup, scale + kGroup);
    TwoGroupScores(packed + a * bytes, (b - a) * bytes, scale, query, heads, size, scores + i * kGroup);
  }
#endif
  for (; i < count; ++i) {
    FetchGroup(groups, i + kFetchAhead, packed, bytes, scale_bits);
    const int64_t group = groups[static_cast<size_t>(i)];
    WidenScales(scale_bits + group * kGroup, kGroup, kGroup, scale);
    GroupScores(packed + group * bytes, scale, query, heads, size, scores + i * kGroup);
  }
}

// Where scores [0, n rounded up to 16) are above `bound`, in order.
std::vector<int32_t> PlacesAbove(const float* HWY_RESTRICT scores, int64_t n, float bound) {
#if HWY_TARGET == HWY_AVX3
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  std::vector<int32_t> places(static_cast<size_t>(CountAbove(scores, n, bound) + lanes));
  int32_t* next = places.data();
  auto place = hn::Iota(di, 0);
  for (int64_t i = 0; i < n; i += lanes, place = hn::Add(place, hn::Set(di, static_cast<int32_t>(lanes)))) {
    const auto above = hn::RebindMask(di, hn::Gt(hn::Load(d, scores + i), hn::Set(d, bound)));
    hn::StoreU(hn::Compress(place, above), di, next);
    next += hn::CountTrue(di, above);
  }
  places.resize(static_cast<size_t>(next - places.data()));
#else  // Highway compresses by a table here: slower than bit by bit.
  std::vector<int32_t> places;
  places.reserve(static_cast<size_t>(CountAbove(scores, n, bound)));
  for (int64_t i = 0; i < n; i += kGroup) {
    for (uint32_t bits = PassBits(scores + i, bound); bits != 0; bits &= bits - 1)
      places.push_back(static_cast<int32_t>(i) + std::countr_zero(bits));
  }
#endif
  return places;
}

// The `beam` best of the landmarks in the listed groups of 16, rising as the groups do. scores: [groups, 16].
std::vector<int32_t> BestLandmarks(const std::vector<int32_t>& groups, int64_t beam,
                                   const float* HWY_RESTRICT scores) {
  const int64_t count = static_cast<int64_t>(groups.size()) * kGroup;
  std::vector<int32_t> best = PlacesAbove(scores, count, LowerBoundOfBest(scores, count, beam));
  if (std::ssize(best) > beam) {  // Equal ones.
    std::vector<uint64_t> entries;
    for (const int32_t place : best) entries.push_back(gate_scan::MakeEntry(scores[place], place));
    gate_scan::KeepBest(entries, beam);
    best.clear();
    for (const uint64_t entry : entries) best.push_back(gate_scan::EntryIndex(entry));
  }
  for (int32_t& place : best) {
    place = groups[static_cast<size_t>(place / kGroup)] * static_cast<int32_t>(kGroup) +
            place % static_cast<int32_t>(kGroup);
  }
  return best;
}

// The `beam` best nodes of the ranges.
std::vector<int32_t> BestNodes(const GateTreeSearch& search, const std::vector<GateTreeRange>& ranges,
                               const ScanQuery& landmark_query, int64_t heads, int64_t size) {
  int64_t num_nodes = 0;
  std::vector<int32_t> groups;  // Those of 16 that the nodes are in.
  for (const GateTreeRange& range : ranges) {
    num_nodes += range.num_slots / GateTreeView::kNode;
    for (int64_t group = FirstNode(range) / kGroup; group * kGroup < EndNode(range); ++group)
      groups.push_back(static_cast<int32_t>(group));
  }
  if (num_nodes <= search.beam) {
    std::vector<int32_t> nodes;
    for (const GateTreeRange& range : ranges) {
      for (int64_t node = FirstNode(range); node < EndNode(range); ++node)
        nodes.push_back(static_cast<int32_t>(node));
    }
    return nodes;
  }
  const auto all_scores = hwy::AllocateAligned<float>(groups.size() * kGroup);
  ScoreGroups(search.tree.nodes, groups, landmark_query, heads, size + 2, all_scores.get());
  // A group of 16 may also hold nodes of another level, or of groups that were not closed.
  const auto scores = hwy::AllocateAligned<float>(groups.size() * kGroup);
  std::fill_n(scores.get(), groups.size() * kGroup, -1.0f);
  int64_t first = 0;  // Place of the range's first group.
  for (const GateTreeRange& range : ranges) {
    const int64_t first_node = FirstNode(range) / kGroup * kGroup;
    const int64_t begin = first + FirstNode(range) - first_node;
    const int64_t end = first + EndNode(range) - first_node;
    std::copy(all_scores.get() + begin, all_scores.get() + end, scores.get() + begin);
    first = (end + kGroup - 1) / kGroup * kGroup;
  }
  return BestLandmarks(groups, search.beam, scores.get());
}

// The best of the listed leaves' keys, from query.begin on, into query.top.
void CollectKeys(const GateTreeView& tree, std::span<const int32_t> leaves, const ScanQuery& query,
                 int64_t heads, int64_t size) {
  const auto count = static_cast<int64_t>(leaves.size()) * kGroup;
  const auto scores = hwy::AllocateAligned<float>(static_cast<size_t>(count));
  ScoreGroups(tree.keys, leaves, query, heads, size, scores.get());
  // As many more than k as there are keys before query.begin: those are left out below. To look up every
  // key's position first would take as long as to score it.
  const float bound = LowerBoundOfBest(scores.get(), count, query.top->k() + query.begin);
  const int32_t* order = static_cast<const int32_t*>(tree.order.raw());
  std::vector<std::pair<float, const int32_t*>> best;
  for (int64_t i = 0; i < count; i += kGroup) {
    const int32_t* keys = order + leaves[static_cast<size_t>(i / kGroup)] * kGroup;
    for (uint32_t bits = PassBits(scores.get() + i, bound); bits != 0; bits &= bits - 1) {
      const int lane = std::countr_zero(bits);
      best.emplace_back(scores[i + lane], keys + lane);
      __builtin_prefetch(keys + lane);
    }
  }
  for (const auto& [score, key] : best) {
    if (*key >= query.begin) query.top->Add(score, *key);
  }
  query.top->Compact();
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(ScoreGroups);
HWY_EXPORT(BestLandmarks);
HWY_EXPORT(BestNodes);
HWY_EXPORT(CollectKeys);

namespace {

using gate_scan::kGroup;
using gate_scan::QueryCodes;
using gate_scan::ScanQuery;

// Landmarks have two channels more than keys.
QueryCodes LandmarkCodes(const float* gq, const float* gw, int64_t heads, int64_t size) {
  std::vector<float> extended(static_cast<size_t>(heads * (size + 2)));
  for (int64_t h = 0; h < heads; ++h) {
    ExtendGateQuery(gq + h * size, size, extended.data() + h * (size + 2));
  }
  return QueryCodes(extended.data(), gw, heads, size + 2);
}

// Part `part` of `parts` of a list.
std::span<const int32_t> Part(const std::vector<int32_t>& list, int64_t part, int64_t parts) {
  const int64_t begin = std::ssize(list) * part / parts;
  const int64_t end = std::ssize(list) * (part + 1) / parts;
  return std::span(list).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
}

}  // namespace

TreeSearch::TreeSearch(const GateTreeSearch& search, const std::vector<GateTreeRange>& ranges,
                       const float* gq, const float* gw, int64_t heads, int64_t size)
    : search_(search), heads_(heads), size_(size), landmark_codes_(LandmarkCodes(gq, gw, heads, size)) {
  nodes_ = HWY_DYNAMIC_DISPATCH(BestNodes)(search, ranges, landmark_codes_.Over(0, 0, nullptr), heads, size);
  leaf_scores_ = hwy::AllocateAligned<float>(nodes_.size() * kGroup);
}

void TreeSearch::ScoreLeaves(int64_t part, int64_t parts) {
  const std::span<const int32_t> nodes = Part(nodes_, part, parts);
  if (nodes.empty()) return;
  HWY_DYNAMIC_DISPATCH(ScoreGroups)
  (search_.tree.leaves, nodes, landmark_codes_.Over(0, 0, nullptr), heads_, size_ + 2,
   leaf_scores_.get() + (nodes.data() - nodes_.data()) * kGroup);
}

void TreeSearch::ChooseLeaves() {
  leaves_ = HWY_DYNAMIC_DISPATCH(BestLandmarks)(nodes_, search_.beam, leaf_scores_.get());
}

void TreeSearch::CollectKeys(int64_t part, int64_t parts, const ScanQuery& query) const {
  HWY_DYNAMIC_DISPATCH(CollectKeys)(search_.tree, Part(leaves_, part, parts), query, heads_, size_);
}

}  // namespace sluice
#endif  // HWY_ONCE
