// What reaches a matrix: mean squares of its inputs, by channel. They say how much an error in a weight of
// that channel matters (ops/quantize.h).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace sluice {

class InputSquares {
 public:
  InputSquares(int64_t num_experts, int64_t in);

  // Adds rows [rows, in] in float32; `offsets` says which are whose, as in GroupedMatMulArgs (ops/matmul.h);
  // absent: all are the only expert's.
  void Add(const TensorView& x, const TensorView& offsets = {});

  // f32 [experts, in]: mean squares. To those of an expert count as many as kMixedRows of the mean over all
  // experts' rows, so that one that saw few tokens is not rounded by these alone, and to those of a channel
  // kFloor of the mean over channels, so that no weight is free. All 1 if there were no rows.
  Buffer Importance() const;

 private:
  static constexpr double kMixedRows = 64;
  static constexpr double kFloor = 0.01;

  int64_t in_;
  std::vector<int64_t> num_rows_;  // [experts]
  std::vector<double> sums_;       // [experts, in]
};
using InputSquaresByName = std::map<std::string, InputSquares>;  // By parameter.

}  // namespace sluice
