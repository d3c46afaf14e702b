// Building the gate's tree index: a group is halved level by level, the segments of a level side by side.
#include <numeric>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "base/threads.h"
#include "ops/gate_tree_numerics.h"

namespace sluice {
namespace {

constexpr int64_t kKeysPerTask = 2048;

void CloseGroup(const BuildGateTreeArgs& args, int64_t group) {
  const GateTreeView& tree = args.tree;
  const int64_t size = 2 * args.keys.packed.dim(1);
  const int64_t begin = group * tree.group;
  const std::vector<float> x = UnpackGateKeys(args.keys, begin, tree.group, size);
  std::vector<int32_t> members(static_cast<size_t>(tree.group));
  std::iota(members.begin(), members.end(), 0);
  const auto segment = [&](int64_t first, int64_t count) {
    return std::span(members).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  };
  for (int64_t length = tree.group; length > GateTreeView::kLeaf; length /= 2) {
    ParallelForRange(tree.group / length, std::max<int64_t>(1, kKeysPerTask / length),
                     [&](int64_t from, int64_t to) {
                       for (int64_t i = from; i < to; ++i)
                         SplitGateMembers(x.data(), size, segment(i * length, length));
                     });
  }
  const auto store_landmarks = [&](int64_t from, int64_t to, int64_t unit, const GateKeyView& landmarks) {
    std::vector<float> landmark(static_cast<size_t>(size + 2));
    for (int64_t i = from; i < to; i += unit) {
      GateLandmark(x.data(), size, segment(i, unit), landmark.data());
      StoreGateKey(landmark.data(), size + 2, (begin + i) / unit, landmarks);
    }
  };
  int32_t* order = tree.order.data<int32_t>() + begin;
  ParallelForRange(tree.group / GateTreeView::kNode, kKeysPerTask / GateTreeView::kNode,
                   [&](int64_t from, int64_t to) {
                     from *= GateTreeView::kNode;
                     to *= GateTreeView::kNode;
                     for (int64_t i = from; i < to; ++i) {
                       const int64_t key = begin + members[static_cast<size_t>(i)];
                       order[i] = static_cast<int32_t>(key);
                       CopyGateKey(args.keys, key, size, tree.keys, begin + i);
                     }
                     store_landmarks(from, to, GateTreeView::kLeaf, tree.leaves);
                     store_landmarks(from, to, GateTreeView::kNode, tree.nodes);
                   });
}

}  // namespace

void CpuOps::BuildGateTree(const BuildGateTreeArgs& args) {
  for (int64_t i = 0; i < args.num_groups; ++i) CloseGroup(args, args.first_group + i);
}

}  // namespace sluice
