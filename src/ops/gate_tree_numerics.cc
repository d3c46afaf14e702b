#include "ops/gate_tree_numerics.h"

#include <algorithm>
#include <cmath>

#include "ops/gate_numerics.h"

namespace sluice {

namespace {

constexpr int64_t kAxisSample = 128;
constexpr int kAxisIterations = 6;

// Σ_c a[c] b[c] in lanes, so that it is not one chain of additions. Float32 in a fixed order, as all here.
float Dot(const float* a, const float* b, int64_t size) {
  constexpr int64_t kLanes = 8;
  float lanes[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= size; c += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] += a[c + i] * b[c + i];
  }
  for (; c < size; ++c) lanes[0] += a[c] * b[c];
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

// The axis of largest variance of the sampled members.
std::vector<float> LargestAxis(const float* x, int64_t size, std::span<const int32_t> members) {
  const auto n = static_cast<int64_t>(members.size());
  const int64_t count = std::min(n, kAxisSample);
  std::vector<float> sample(static_cast<size_t>(count * size));
  std::vector<float> mean(static_cast<size_t>(size), 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    const float* row = x + members[static_cast<size_t>(i * n / count)] * size;
    for (int64_t c = 0; c < size; ++c) mean[static_cast<size_t>(c)] += row[c];
    std::copy_n(row, size, sample.data() + i * size);
  }
  for (float& value : mean) value /= static_cast<float>(count);
  std::vector<float> axis(static_cast<size_t>(size), 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    float* row = sample.data() + i * size;
    for (int64_t c = 0; c < size; ++c) {
      row[c] -= mean[static_cast<size_t>(c)];
      axis[static_cast<size_t>(c)] += row[c] * row[c];
    }
  }
  std::vector<float> next(static_cast<size_t>(size));
  for (int iteration = 0; iteration < kAxisIterations; ++iteration) {
    std::fill(next.begin(), next.end(), 0.0f);
    for (int64_t i = 0; i < count; ++i) {
      const float* row = sample.data() + i * size;
      const float along = Dot(axis.data(), row, size);
      for (int64_t c = 0; c < size; ++c) next[static_cast<size_t>(c)] += along * row[c];
    }
    const float largest = GateMaxAbs(next.data(), size);
    if (!(largest > 0) || !std::isfinite(largest)) break;  // All alike: any axis.
    for (int64_t c = 0; c < size; ++c) axis[static_cast<size_t>(c)] = next[static_cast<size_t>(c)] / largest;
  }
  return axis;
}

}  // namespace

std::vector<GateTreeRange> GateTreeRanges(const GateTreeSearch& search, int64_t w) {
  std::vector<GateTreeRange> ranges;
  if (!search.tree.present() || w < search.min_keys) return ranges;
  const GateTreeShape& shape = search.tree.shape;
  const int64_t closed = std::min(search.tree.num_keys, w);
  int64_t begin = 0;
  for (int64_t level = shape.NumLevels() - 1; level >= 0; --level) {
    const int64_t end = closed / shape.LevelGroup(level) * shape.LevelGroup(level);
    if (end > begin) ranges.push_back({shape.LevelSlot(level) + begin, end - begin, end});
    begin = end;
  }
  return ranges;
}

int64_t NumScoredKeys(const GateTreeSearch& search, int64_t first_far, int64_t w) {
  const std::vector<GateTreeRange> ranges = GateTreeRanges(search, w);
  if (ranges.empty()) return std::max<int64_t>(w - first_far, 0);
  int64_t nodes = 0;
  for (const GateTreeRange& range : ranges) nodes += range.num_slots / GateTreeView::kNode;
  const int64_t scored_nodes = nodes > search.beam ? nodes : 0;  // Else all of them are kept.
  const int64_t leaves = 16 * std::min(nodes, search.beam);
  const int64_t keys = GateTreeView::kLeaf * std::min(leaves, search.beam);
  return scored_nodes + leaves + keys + w - std::min(w, std::max(first_far, ranges.back().key_end));
}

void ForEachClosedGroup(const GateTreeShape& shape, int64_t first_key, int64_t end_key,
                        const std::function<void(int64_t, int64_t, int64_t)>& body) {
  for (int64_t level = 0; level < shape.NumLevels(); ++level) {
    const int64_t group = shape.LevelGroup(level);
    for (int64_t i = first_key / group; i < end_key / group; ++i) {
      body(i * group, shape.LevelSlot(level) + i * group, group);
    }
  }
}

std::vector<float> GateKeyValues(const GateKeyView& keys, int64_t begin, int64_t count, int64_t size) {
  std::vector<float> values(static_cast<size_t>(count * size));
  const int8_t* packed = keys.packed.data<int8_t>();
  const auto* scale = static_cast<const uint16_t*>(keys.scale.raw());
  for (int64_t i = 0; i < count; ++i) {
    const int64_t slot = keys.map.Slot(begin + i);
    const float factor = FloatFromF16(scale[slot]);
    for (int64_t c = 0; c < size; ++c) {
      values[static_cast<size_t>(i * size + c)] =
          factor * static_cast<float>(packed[GateCodeOffset(slot, c, size)]);
    }
  }
  return values;
}

void SplitGateMembers(const float* x, int64_t size, std::span<int32_t> members) {
  struct Projection {
    float along;
    int32_t row;
    bool operator<(const Projection& other) const {
      return along != other.along ? along < other.along : row < other.row;
    }
  };
  const std::vector<float> axis = LargestAxis(x, size, members);
  std::vector<Projection> projections(members.size());
  for (size_t i = 0; i < members.size(); ++i) {
    projections[i] = {Dot(axis.data(), x + members[i] * size, size), members[i]};
  }
  const auto half = static_cast<std::ptrdiff_t>(members.size() / 2);
  std::vector<Projection> ranked = projections;
  std::nth_element(ranked.begin(), ranked.begin() + half, ranked.end());
  const Projection median = ranked[static_cast<size_t>(half)];
  int64_t low = 0;
  int64_t high = half;
  for (const Projection& projection : projections) {
    members[static_cast<size_t>(projection < median ? low++ : high++)] = projection.row;
  }
}

void GateLandmark(const float* x, int64_t size, std::span<const int32_t> members, float* landmark) {
  const auto count = static_cast<double>(members.size());
  std::vector<double> centre(static_cast<size_t>(size), 0.0);
  for (const int32_t row : members) {
    for (int64_t c = 0; c < size; ++c)
      centre[static_cast<size_t>(c)] += static_cast<double>(x[row * size + c]);
  }
  for (double& value : centre) value /= count;
  double square = 0;
  for (const int32_t row : members) {
    for (int64_t c = 0; c < size; ++c) {
      const double distance = static_cast<double>(x[row * size + c]) - centre[static_cast<size_t>(c)];
      square += distance * distance;
    }
  }
  for (int64_t c = 0; c < size; ++c) landmark[c] = static_cast<float>(centre[static_cast<size_t>(c)]);
  landmark[size] = kGateLandmarkSpread * static_cast<float>(std::sqrt(square / count));
  landmark[size + 1] = 0;
}

void ExtendGateQuery(const float* gq, int64_t size, float* extended) {
  double square = 0;
  for (int64_t c = 0; c < size; ++c) {
    extended[c] = gq[c];
    if (std::isfinite(gq[c])) square += static_cast<double>(gq[c]) * static_cast<double>(gq[c]);
  }
  extended[size] = static_cast<float>(std::sqrt(square));
  extended[size + 1] = 0;
}

void StoreGateKey(const float* x, int64_t size, int64_t s, const GateKeyView& keys) {
  std::vector<int8_t> codes(static_cast<size_t>(size));
  s = keys.map.Slot(s);
  static_cast<uint16_t*>(keys.scale.raw())[s] = PackOneGateKey(x, size, codes.data());
  int8_t* packed = keys.packed.data<int8_t>();
  for (int64_t c = 0; c < size; ++c) packed[GateCodeOffset(s, c, size)] = codes[static_cast<size_t>(c)];
}

void CopyGateKey(const GateKeyView& source, int64_t from, int64_t size, const GateKeyView& destination,
                 int64_t to) {
  from = source.map.Slot(from);
  to = destination.map.Slot(to);
  static_cast<uint16_t*>(destination.scale.raw())[to] =
      static_cast<const uint16_t*>(source.scale.raw())[from];
  const int8_t* codes = source.packed.data<int8_t>();
  int8_t* copies = destination.packed.data<int8_t>();
  for (int64_t c = 0; c < size; ++c)
    copies[GateCodeOffset(to, c, size)] = codes[GateCodeOffset(from, c, size)];
}

bool SameGateKey(const GateKeyView& a, int64_t i, const GateKeyView& b, int64_t j, int64_t size) {
  i = a.map.Slot(i);
  j = b.map.Slot(j);
  const auto scale = [](const GateKeyView& view, int64_t s) {
    return static_cast<const uint16_t*>(view.scale.raw())[s];
  };
  if (scale(a, i) != scale(b, j)) return false;
  const int8_t* codes_a = a.packed.data<int8_t>();
  const int8_t* codes_b = b.packed.data<int8_t>();
  for (int64_t c = 0; c < size; ++c) {
    if (codes_a[GateCodeOffset(i, c, size)] != codes_b[GateCodeOffset(j, c, size)]) return false;
  }
  return true;
}

}  // namespace sluice
