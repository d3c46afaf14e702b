// Adaptive k (KeepMassArgs in ops/gate.h). A row is at most a few hundred keys that are sorted already by
// position; the scores alone are sorted, and one pass keeps what is above the last of them that counts.
#include <algorithm>
#include <functional>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "base/threads.h"
#include "ops/gate_numerics.h"

namespace sluice {
namespace {

// Rows of one task.
constexpr int64_t kRows = 64;

void KeepRow(const KeepMassArgs& args, int64_t t, std::vector<float>& falling) {
  const int64_t width = args.candidates.dim(1);
  const int32_t* row = args.candidates.row<int32_t>(t);
  const float* scores = args.scores.row<float>(t);
  int32_t* kept = args.kept.row<int32_t>(t);
  float* kept_scores = args.kept_scores.row<float>(t);
  const int64_t present = std::find(row, row + width, -1) - row;
  falling.assign(scores, scores + present);
  std::sort(falling.begin(), falling.end(), std::greater<>());
  const int64_t count = GateKeysOfMass(falling.data(), present, args.mass, args.min_keys);
  // Of the keys that score as the last one does, only the first few by position are kept.
  const float last = count > 0 ? falling[static_cast<size_t>(count - 1)] : 0.0f;
  int64_t ties = count - (std::find(falling.begin(), falling.end(), last) - falling.begin());
  int64_t filled = 0;
  for (int64_t j = 0; j < present && filled < count; ++j) {
    if (scores[j] < last || (scores[j] == last && ties-- <= 0)) continue;
    kept[filled] = row[j];
    kept_scores[filled++] = scores[j];
  }
  std::fill(kept + filled, kept + width, -1);
  std::fill(kept_scores + filled, kept_scores + width, 0.0f);
}

}  // namespace

void CpuOps::KeepMass(const KeepMassArgs& args) {
  ParallelForRange(args.candidates.dim(0), kRows, [&](int64_t begin, int64_t end) {
    std::vector<float> falling;
    for (int64_t t = begin; t < end; ++t) KeepRow(args, t, falling);
  });
}

}  // namespace sluice
