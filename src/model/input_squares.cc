#include "model/input_squares.h"

#include <algorithm>
#include <numeric>

#include "base/threads.h"

namespace sluice {

InputSquares::InputSquares(int64_t num_experts, int64_t in)
    : in_(in), num_rows_(static_cast<size_t>(num_experts)), sums_(static_cast<size_t>(num_experts * in)) {}

void InputSquares::Add(const TensorView& x, const TensorView& offsets) {
  constexpr int64_t kChannelsPerTask = 64;
  SLUICE_CHECK_EQ(x.dim(1), in_);
  SLUICE_CHECK(offsets.present() || num_rows_.size() == 1);
  const int32_t all_rows[] = {0, static_cast<int32_t>(x.dim(0))};
  const int32_t* ends = offsets.present() ? offsets.data<int32_t>() : all_rows;
  // Parallel over channels: each sums its rows in order.
  ParallelForRange(in_, kChannelsPerTask, [&](int64_t begin, int64_t end) {
    for (size_t e = 0; e < num_rows_.size(); ++e) {
      double* sums = sums_.data() + static_cast<int64_t>(e) * in_;
      for (int64_t r = ends[e]; r < ends[e + 1]; ++r) {
        const float* row = x.row<float>(r);
        for (int64_t k = begin; k < end; ++k) sums[k] += static_cast<double>(row[k]) * row[k];
      }
    }
  });
  for (size_t e = 0; e < num_rows_.size(); ++e) num_rows_[e] += ends[e + 1] - ends[e];
}

Buffer InputSquares::Importance() const {
  const auto experts = static_cast<int64_t>(num_rows_.size());
  Buffer importance(DType::kF32, {experts, in_});
  const auto all_rows = static_cast<double>(std::accumulate(num_rows_.begin(), num_rows_.end(), int64_t{0}));
  if (all_rows == 0) {
    std::fill_n(importance.view().data<float>(), experts * in_, 1.0f);
    return importance;
  }
  std::vector<double> mean(static_cast<size_t>(in_));
  for (size_t i = 0; i < sums_.size(); ++i) mean[i % mean.size()] += sums_[i] / all_rows;
  const double floor = kFloor * std::accumulate(mean.begin(), mean.end(), 0.0) / static_cast<double>(in_);
  for (size_t i = 0; i < sums_.size(); ++i) {
    const auto rows = static_cast<double>(num_rows_[i / mean.size()]);
    const double mixed = (sums_[i] + kMixedRows * mean[i % mean.size()]) / (rows + kMixedRows);
    importance.view().data<float>()[i] = static_cast<float>(mixed + floor);
  }
  return importance;
}

}  // namespace sluice
