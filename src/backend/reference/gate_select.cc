// Selection of far keys, and the tree that it may search; contracts in ops/gate.h.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"
#include "ops/gate_numerics.h"
#include "ops/gate_tree_numerics.h"

namespace sluice {
namespace {

struct Scored {
  float score;
  int64_t index;
};

bool Better(const Scored& a, const Scored& b) {
  return a.score != b.score ? a.score > b.score : a.index < b.index;
}

// A query as packed keys of `size` are scored with it.
struct PackedQuery {
  int64_t heads;
  int64_t size;
  std::vector<int16_t> codes;  // [heads, size]
  std::vector<float> weight;   // [heads]

  // gq: [heads, size].
  PackedQuery(const std::vector<float>& gq, const std::vector<float>& gw)
      : heads(std::ssize(gw)), size(std::ssize(gq) / heads), codes(gq.size()) {
    for (int64_t h = 0; h < heads; ++h) {
      const float scale = RoundGateQuery(&gq[h * size], size, &codes[h * size]);
      weight.push_back(GateHeadWeight(gw[h]) * scale);
    }
  }

  // The score of key s, exactly as gate_numerics.h defines it.
  float Score(const GateKeyView& keys, int64_t s) const {
    float acc = 0;
    s = keys.map.Slot(s);
    for (int64_t h = 0; h < heads; ++h) {
      int32_t dot = 0;
      for (int64_t c = 0; c < size; ++c)
        dot += codes[h * size + c] * keys.packed.data<int8_t>()[GateCodeOffset(s, c, size)];
      acc = std::fmaf(weight[h], static_cast<float>(std::max(dot, 0)), acc);
    }
    return FloatFromF16(static_cast<const uint16_t*>(keys.scale.raw())[s]) * acc;
  }
};

// The `beam` best of the listed landmarks, ascending.
std::vector<int64_t> BestLandmarks(const PackedQuery& query, const GateKeyView& landmarks,
                                   const std::vector<int64_t>& indices, int64_t beam) {
  std::vector<Scored> ranked;
  for (const int64_t i : indices) ranked.push_back({query.Score(landmarks, i), i});
  std::sort(ranked.begin(), ranked.end(), Better);
  if (std::ssize(ranked) > beam) ranked.resize(beam);
  std::vector<int64_t> best;
  for (const Scored& landmark : ranked) best.push_back(landmark.index);
  std::sort(best.begin(), best.end());
  return best;
}

std::vector<int64_t> Children(const std::vector<int64_t>& parents) {
  std::vector<int64_t> children;
  for (const int64_t parent : parents)
    for (int64_t i = 0; i < 16; ++i) children.push_back(16 * parent + i);
  return children;
}

// The keys of the leaves that the search arrives at.
std::vector<int64_t> TreeKeys(const PackedQuery& query, const GateTreeSearch& search,
                              const std::vector<GateTreeRange>& ranges) {
  const GateTreeView& tree = search.tree;
  std::vector<int64_t> nodes;
  for (const GateTreeRange& range : ranges)
    for (int64_t slot = 0; slot < range.num_slots; slot += GateTreeView::kNode)
      nodes.push_back((range.first_slot + slot) / GateTreeView::kNode);
  nodes = BestLandmarks(query, tree.nodes, nodes, search.beam);
  const std::vector<int64_t> leaves = BestLandmarks(query, tree.leaves, Children(nodes), search.beam);
  std::vector<int64_t> keys = Children(leaves);
  for (int64_t& key : keys) key = tree.order.data<int32_t>()[key];
  return keys;
}

// The scores of the far keys that query t looks at.
template <class Real>
std::vector<Scored> ScoredFarKeys(const SelectKeysArgs& args, int64_t t) {
  const int64_t heads = args.gq.dim(1), size = args.gq.dim(2);
  const std::vector<float> gq = reference::ToFloats(args.gq.row<Real>(t), heads * size);
  const std::vector<float> gw = reference::ToFloats(args.gw.row<Real>(t), heads);
  std::vector<float> extended(heads * (size + 2));
  for (int64_t h = 0; h < heads; ++h) ExtendGateQuery(&gq[h * size], size, &extended[h * (size + 2)]);

  const int64_t sinks_end = args.span.SinksEnd(t), window_begin = args.span.WindowBegin(t);
  const std::vector<GateTreeRange> ranges = GateTreeRanges(args.search, window_begin);
  std::vector<int64_t> keys;
  if (!ranges.empty()) keys = TreeKeys(PackedQuery(extended, gw), args.search, ranges);
  std::erase_if(keys, [&](int64_t key) { return key < sinks_end; });
  const int64_t scan_begin = ranges.empty() ? sinks_end : std::max(sinks_end, ranges.back().key_end);
  for (int64_t s = scan_begin; s < window_begin; ++s) keys.push_back(s);

  const PackedQuery query(gq, gw);
  std::vector<Scored> result;
  for (const int64_t s : keys) result.push_back({query.Score(args.keys, s), s});
  return result;
}

void SplitToLeaves(const std::vector<float>& x, int64_t size, std::span<int32_t> members) {
  if (std::ssize(members) <= GateTreeView::kLeaf) return;
  SplitGateMembers(x.data(), size, members);
  SplitToLeaves(x, size, members.first(members.size() / 2));
  SplitToLeaves(x, size, members.subspan(members.size() / 2));
}

}  // namespace

template <class Real>
void ReferenceOps<Real>::BuildGateTree(const BuildGateTreeArgs& args) {
  const GateTreeView& tree = args.tree;
  const int64_t size = 2 * args.keys.packed.dim(1);
  std::vector<float> landmark(size + 2);
  const auto close = [&](int64_t first_key, int64_t first_slot, int64_t num_keys) {
    const std::vector<float> x = GateKeyValues(args.keys, first_key, num_keys, size);
    std::vector<int32_t> members(num_keys);
    std::iota(members.begin(), members.end(), 0);
    SplitToLeaves(x, size, members);
    for (int64_t i = 0; i < num_keys; ++i) {
      const int64_t key = first_key + members[i];
      tree.order.data<int32_t>()[first_slot + i] = static_cast<int32_t>(key);
      CopyGateKey(args.keys, key, size, tree.keys, first_slot + i);
    }
    const auto store = [&](int64_t unit, const GateKeyView& landmarks) {
      for (int64_t i = 0; i < num_keys; i += unit) {
        GateLandmark(x.data(), size, std::span(members).subspan(i, unit), landmark.data());
        StoreGateKey(landmark.data(), size + 2, (first_slot + i) / unit, landmarks);
      }
    };
    store(GateTreeView::kLeaf, tree.leaves);
    store(GateTreeView::kNode, tree.nodes);
  };
  ForEachClosedGroup(tree.shape, args.first_key, args.end_key, close);
}

template <class Real>
void ReferenceOps<Real>::SelectKeys(const SelectKeysArgs& args) {
  const int64_t width = args.candidates.dim(1);
  for (int64_t t = 0; t < args.gq.dim(0); ++t) {
    std::vector<Scored> keys = ScoredFarKeys<Real>(args, t);
    std::sort(keys.begin(), keys.end(), Better);
    // Part [begin, end) of the row holds the keys of the same ranks, ascending, then -1.
    const auto write_part = [&](int64_t begin, int64_t end) {
      const int64_t present = std::min<int64_t>(end, std::ssize(keys));
      if (present > begin) {
        std::sort(keys.begin() + begin, keys.begin() + present,
                  [](const Scored& a, const Scored& b) { return a.index < b.index; });
      }
      for (int64_t i = begin; i < end; ++i) {
        args.candidates.row<int32_t>(t)[i] = i < present ? static_cast<int32_t>(keys[i].index) : -1;
        if (!args.scores.present()) continue;
        args.scores.row<Real>(t)[i] = i < present ? WithMagnitude<Real>(keys[i].score, 0) : Real{};
      }
    };
    write_part(0, args.num_selected);
    write_part(args.num_selected, width);
  }
}

template <class Real>
void ReferenceOps<Real>::KeepMass(const KeepMassArgs& args) {
  const int64_t width = args.candidates.dim(1);
  for (int64_t t = 0; t < args.candidates.dim(0); ++t) {
    const int32_t* row = args.candidates.row<int32_t>(t);
    const std::vector<float> scores = reference::ToFloats(args.scores.row<Real>(t), width);
    std::vector<Scored> keys;
    for (int64_t j = 0; j < width && row[j] >= 0; ++j) keys.push_back({scores[j], row[j]});
    std::stable_sort(keys.begin(), keys.end(),
                     [](const Scored& a, const Scored& b) { return a.score > b.score; });
    std::vector<float> falling;
    for (const Scored& key : keys) falling.push_back(key.score);
    keys.resize(GateKeysOfMass(falling.data(), std::ssize(falling), args.mass, args.min_keys));
    std::sort(keys.begin(), keys.end(), [](const Scored& a, const Scored& b) { return a.index < b.index; });
    for (int64_t j = 0; j < width; ++j) {
      const bool present = j < std::ssize(keys);
      args.kept.row<int32_t>(t)[j] = present ? static_cast<int32_t>(keys[j].index) : -1;
      args.kept_scores.row<Real>(t)[j] = present ? WithMagnitude<Real>(keys[j].score, 0) : Real{};
    }
  }
}

template void ReferenceOps<double>::BuildGateTree(const BuildGateTreeArgs&);
template void ReferenceOps<Tracked>::BuildGateTree(const BuildGateTreeArgs&);
template void ReferenceOps<double>::SelectKeys(const SelectKeysArgs&);
template void ReferenceOps<Tracked>::SelectKeys(const SelectKeysArgs&);
template void ReferenceOps<double>::KeepMass(const KeepMassArgs&);
template void ReferenceOps<Tracked>::KeepMass(const KeepMassArgs&);

}  // namespace sluice
