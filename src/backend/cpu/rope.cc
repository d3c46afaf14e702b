// Rotary position embedding. Sines and cosines are taken in float64 once per token and shared by the
// heads; those of positions below kTablePositions are kept in a table per (theta, head_size), since
// training and short prompts ask for the same ones in every layer of every step.
#include "ops/rope.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "base/threads.h"

namespace sluice {
namespace {

constexpr int64_t kTablePositions = 32768;
constexpr int64_t kTokensPerTask = 64;

// cos then sin of `half` angles.
void ComputeAngles(int64_t position, const std::vector<double>& frequencies, float* out) {
  const size_t half = frequencies.size();
  for (size_t j = 0; j < half; ++j) {
    const double angle = static_cast<double>(position) * frequencies[j];
    out[j] = static_cast<float>(std::cos(angle));
    out[half + j] = static_cast<float>(std::sin(angle));
  }
}

struct AngleTable {
  std::vector<double> frequencies;
  std::vector<float> angles;  // [positions, 2 * half]
};

// A table of at least `num_positions` positions (kTablePositions at most); immutable once returned.
std::shared_ptr<const AngleTable> GetTable(double theta, int64_t half, int64_t num_positions) {
  static std::mutex mutex;
  static std::map<std::pair<double, int64_t>, std::shared_ptr<const AngleTable>> tables;
  const std::lock_guard lock(mutex);
  std::shared_ptr<const AngleTable>& entry = tables[{theta, half}];
  const size_t width = static_cast<size_t>(2 * half);
  num_positions = std::min(num_positions, kTablePositions);
  if (entry && entry->angles.size() >= static_cast<size_t>(num_positions) * width) return entry;
  auto table = std::make_shared<AngleTable>();
  for (int64_t j = 0; j < half; ++j) {
    table->frequencies.push_back(std::pow(theta, -static_cast<double>(j) / static_cast<double>(half)));
  }
  if (entry) table->angles = entry->angles;
  const int64_t first = width == 0 ? 0 : static_cast<int64_t>(table->angles.size() / width);
  const auto last =
      static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(1, num_positions))));
  table->angles.resize(static_cast<size_t>(last) * width);
  ParallelForRange(last - first, 256, [&](int64_t begin, int64_t end) {
    for (int64_t p = first + begin; p < first + end; ++p) {
      ComputeAngles(p, table->frequencies, table->angles.data() + static_cast<size_t>(p) * width);
    }
  });
  entry = table;
  return entry;
}

// out = R(position) x, or with its transpose (sign = -1).
void Rotate(const TensorView& x, const TensorView& positions, double theta, float sign,
            const TensorView& out) {
  const int64_t heads = x.dim(1);
  const int64_t half = x.dim(2) / 2;
  const int32_t* position = positions.data<int32_t>();
  const int64_t tokens = x.dim(0);
  if (tokens == 0 || half == 0) return;
  const int64_t largest = *std::max_element(position, position + tokens);
  const auto table = GetTable(theta, half, largest + 1);
  ParallelForRange(tokens, kTokensPerTask, [&](int64_t begin, int64_t end) {
    std::vector<float> own(static_cast<size_t>(2 * half));
    for (int64_t t = begin; t < end; ++t) {
      const float* angles = own.data();
      if (position[t] < kTablePositions) {
        angles = table->angles.data() + position[t] * 2 * half;
      } else if (t == begin || position[t] != position[t - 1]) {
        ComputeAngles(position[t], table->frequencies, own.data());
      }
      const float* in = x.row<float>(t);
      float* to = out.row<float>(t);
      for (int64_t h = 0; h < heads; ++h, in += 2 * half, to += 2 * half) {
        for (int64_t j = 0; j < half; ++j) {
          const float cosine = angles[j];
          const float sine = sign * angles[half + j];
          const float a = in[j];
          const float b = in[half + j];
          to[j] = a * cosine - b * sine;
          to[half + j] = b * cosine + a * sine;
        }
      }
    }
  });
}

}  // namespace

void CpuOps::Rope(const RopeArgs& args) {
  Rotate(args.x, args.positions, args.theta, 1.0f, args.out);
}

void CpuOps::RopeGrad(const RopeGradArgs& args) {
  Rotate(args.dout, args.positions, args.theta, -1.0f, args.dx);
}

}  // namespace sluice
