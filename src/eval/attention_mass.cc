#include "eval/attention_mass.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace sluice {

namespace {

// In lanes, so that it is not a chain of single additions.
float Dot(const float* a, const float* b, int64_t n) {
  constexpr int64_t kLanes = 16;
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += a[i + j] * b[i + j];
  }
  for (; i < n; ++i) lanes[0] += a[i] * b[i];
  return std::accumulate(lanes, lanes + kLanes, 0.0f);
}

}  // namespace

std::vector<float> FarMass(const AttentionInputs& in, int64_t t) {
  const int64_t heads = in.q.dim(1);
  const int64_t size = in.q.dim(2);
  const int64_t heads_per_kv = heads / in.k.dim(1);
  const int64_t first = in.span.First(t);
  const int64_t window_begin = in.span.WindowBegin(t);
  const int64_t far_begin = in.span.SinksEnd(t) - first;
  const auto num_keys = static_cast<size_t>(in.span.Position(t) - first + 1);
  const float scale = 1 / std::sqrt(static_cast<float>(size));
  std::vector<float> mass(static_cast<size_t>(in.span.NumFar(t)), 0.0f);
  std::vector<float> weights(num_keys);
  for (int64_t head = 0; head < heads; ++head) {
    const int64_t offset = head / heads_per_kv * size;
    const float* q = in.q.row<float>(t) + head * size;
    const float* q_rot = in.q_rot.row<float>(t) + head * size;
    const float sink = in.sink_logit.data<float>()[head];
    float largest = sink;
    for (size_t i = 0; i < num_keys; ++i) {
      const int64_t key = first + static_cast<int64_t>(i);
      weights[i] =
          scale * (key < window_begin ? Dot(q, in.k.row<float>(key) + offset, size)
                                      : Dot(q_rot, in.k_rot.row<float>(key - in.k_rot_begin) + offset, size));
      largest = std::max(largest, weights[i]);
    }
    double total = std::exp(sink - largest);
    for (float& weight : weights) {
      weight = std::exp(weight - largest);
      total += weight;
    }
    for (size_t i = 0; i < mass.size(); ++i) {
      mass[i] += static_cast<float>(weights[i + static_cast<size_t>(far_begin)] / total);
    }
  }
  return mass;
}

std::vector<int32_t> LargestMass(const AttentionInputs& inputs, int64_t t, const std::vector<float>& mass,
                                 int64_t k) {
  std::vector<int32_t> keys(mass.size());
  std::iota(keys.begin(), keys.end(), 0);
  const auto count = std::min(static_cast<int64_t>(keys.size()), k);
  std::nth_element(keys.begin(), keys.begin() + count, keys.end(), [&](int32_t a, int32_t b) {
    const float x = mass[static_cast<size_t>(a)], y = mass[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  });
  keys.resize(static_cast<size_t>(count));
  std::sort(keys.begin(), keys.end());
  const auto begin = static_cast<int32_t>(inputs.span.SinksEnd(t));
  for (int32_t& key : keys) key += begin;
  return keys;
}

}  // namespace sluice
