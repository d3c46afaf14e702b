// The keys that a query of sparse attention reads.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/sparse_attention.h"

namespace sluice {

// The keys of one query: [0, num_far) unrotated, [num_far, num_hard) the window, then runners-up.
struct KeyList {
  std::vector<int32_t> key;
  std::vector<int32_t> column;  // The candidate's, or -1.
  int64_t num_far = 0;
  int64_t num_hard = 0;
  int64_t count = 0;

  explicit KeyList(int64_t max_keys)
      : key(static_cast<size_t>(max_keys)), column(static_cast<size_t>(max_keys)) {}
  int64_t size() const { return count; }

  void AddRange(int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s, ++count) {
      key[static_cast<size_t>(count)] = static_cast<int32_t>(s);
      column[static_cast<size_t>(count)] = -1;
    }
  }
  void AddCandidates(const int32_t* row, int64_t begin, int64_t end) {
    for (int64_t col = begin; col < end; ++col) {
      if (row[col] < 0) continue;
      key[static_cast<size_t>(count)] = row[col];
      column[static_cast<size_t>(count)] = static_cast<int32_t>(col);
      ++count;
    }
  }
  // Sinks and columns [0, num_chosen) of the candidates.
  void BuildFar(const AttentionSpan& span, const TensorView& candidates, int64_t t, int64_t num_chosen) {
    count = 0;
    AddRange(span.First(t), span.SinksEnd(t));
    AddCandidates(candidates.row<int32_t>(t), 0, num_chosen);
    num_far = count;
  }
  // The same, then the window, and the rest of the candidates after it if wanted.
  void Build(const AttentionSpan& span, const TensorView& candidates, int64_t t, int64_t num_chosen,
             bool with_rest) {
    BuildFar(span, candidates, t, num_chosen);
    AddRange(span.WindowBegin(t), span.Position(t) + 1);
    num_hard = count;
    if (with_rest) AddCandidates(candidates.row<int32_t>(t), num_chosen, candidates.dim(1));
  }
};

}  // namespace sluice
