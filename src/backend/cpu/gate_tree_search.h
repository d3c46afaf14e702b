// The search of one query through a gate tree (ops/gate.h), in steps: nodes, the leaves of the best
// nodes, the keys of the best leaves. The two that read much take any number of parts, so that a decode step
// can use every thread; the result does not depend on how many.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/cpu/gate_scan.h"
#include "hwy/aligned_allocator.h"
#include "ops/gate.h"
#include "ops/gate_tree_numerics.h"

namespace sluice {

class TreeSearch {
 public:
  // gq: [heads, size], gw: [heads], read here only.
  TreeSearch(const GateTreeSearch& search, const std::vector<GateTreeRange>& ranges, const float* gq,
             const float* gw, int64_t heads, int64_t size);

  // Scores part `part` of `parts` of the leaves of the best nodes. Parts may run at the same time.
  void ScoreLeaves(int64_t part, int64_t parts);
  // Keeps the best leaves. REQUIRES: every part of ScoreLeaves has returned.
  void ChooseLeaves();
  // Puts the best keys of part `part` of `parts` of the leaves into query.top, in no order: those from
  // query.begin on. REQUIRES: ChooseLeaves. Parts may run at the same time, each with its own top.
  void CollectKeys(int64_t part, int64_t parts, const gate_scan::ScanQuery& query) const;

 private:
  const GateTreeSearch& search_;
  int64_t heads_;
  int64_t size_;
  gate_scan::QueryCodes landmark_codes_;
  std::vector<int32_t> nodes_;                      // Groups of 16 leaves.
  hwy::AlignedFreeUniquePtr<float[]> leaf_scores_;  // [nodes, 16]
  std::vector<int32_t> leaves_;                     // Groups of 16 keys.
};

}  // namespace sluice
