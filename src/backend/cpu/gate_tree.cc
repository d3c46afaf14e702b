// Building the gate's tree index: a group is halved level by level, the segments of a level side by side.
#include <numeric>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "base/threads.h"
#include "ops/gate_tree_numerics.h"

namespace sluice {
namespace {

constexpr int64_t kKeysPerTask = 2048;

void CloseGroup(const BuildGateTreeArgs& args, int64_t first_key, int64_t first_slot, int64_t num_keys) {
  const GateTreeView& tree = args.tree;
  const int64_t size = 2 * args.keys.packed.dim(1);
  const std::vector<float> x = GateKeyValues(args.keys, first_key, num_keys, size);
  std::vector<int32_t> members(static_cast<size_t>(num_keys));
  std::iota(members.begin(), members.end(), 0);
  const auto segment = [&](int64_t first, int64_t count) {
    return std::span(members).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  };
  for (int64_t length = num_keys; length > GateTreeView::kLeaf; length /= 2) {
    ParallelForRange(num_keys / length, std::max<int64_t>(1, kKeysPerTask / length),
                     [&](int64_t from, int64_t to) {
                       for (int64_t i = from; i < to; ++i)
                         SplitGateMembers(x.data(), size, segment(i * length, length));
                     });
  }
  const auto store_landmarks = [&](int64_t from, int64_t to, int64_t unit, const GateKeyView& landmarks) {
    std::vector<float> landmark(static_cast<size_t>(size + 2));
    for (int64_t i = from; i < to; i += unit) {
      GateLandmark(x.data(), size, segment(i, unit), landmark.data());
      StoreGateKey(landmark.data(), size + 2, (first_slot + i) / unit, landmarks);
    }
  };
  int32_t* order = tree.order.data<int32_t>() + first_slot;
  ParallelForRange(num_keys / GateTreeView::kNode, kKeysPerTask / GateTreeView::kNode,
                   [&](int64_t from, int64_t to) {
                     from *= GateTreeView::kNode;
                     to *= GateTreeView::kNode;
                     for (int64_t i = from; i < to; ++i) {
                       const int64_t key = first_key + members[static_cast<size_t>(i)];
                       order[i] = static_cast<int32_t>(key);
                       CopyGateKey(args.keys, key, size, tree.keys, first_slot + i);
                     }
                     store_landmarks(from, to, GateTreeView::kLeaf, tree.leaves);
                     store_landmarks(from, to, GateTreeView::kNode, tree.nodes);
                   });
}

}  // namespace

void CpuOps::BuildGateTree(const BuildGateTreeArgs& args) {
  ForEachClosedGroup(args.tree.shape, args.first_key, args.end_key,
                     [&](int64_t first_key, int64_t first_slot, int64_t num_keys) {
                       CloseGroup(args, first_key, first_slot, num_keys);
                     });
}

}  // namespace sluice
