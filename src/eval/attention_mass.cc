#include "eval/attention_mass.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ops/gate_numerics.h"
#include "ops/key_rows_numerics.h"

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

// The gate's scores of query t's far keys, from the packed keys as selection sees them.
std::vector<float> FarScores(const AttentionStep& step, int64_t t) {
  const int64_t heads = step.gq.dim(1);
  const int64_t size = step.gq.dim(2);
  const int64_t begin = step.inputs.span.SinksEnd(t);
  const int64_t end = step.inputs.span.WindowBegin(t);
  std::vector<float> scores(static_cast<size_t>(std::max<int64_t>(end - begin, 0)), 0.0f);
  std::vector<int16_t> query(static_cast<size_t>(size));
  const auto* packed = static_cast<const int8_t*>(step.gate_keys.packed.raw());
  const auto* key_scale = static_cast<const uint16_t*>(step.gate_keys.scale.raw());
  constexpr int64_t kGroup = GateKeyView::kGroup;
  for (int64_t head = 0; head < heads; ++head) {
    const float scale = RoundGateQuery(step.gq.row<float>(t) + head * size, size, query.data());
    const float weight = GateHeadWeight(step.gw.row<float>(t)[head]) * scale;
    for (int64_t first = begin / kGroup * kGroup; first < end; first += kGroup) {
      int32_t dots[kGroup] = {};
      for (int64_t c = 0; c < size; ++c) {
        const int8_t* column = packed + GateCodeOffset(step.gate_keys.map.Slot(first), c, size);
        for (int64_t i = 0; i < kGroup; ++i) dots[i] += query[static_cast<size_t>(c)] * column[2 * i];
      }
      for (int64_t key = std::max(first, begin); key < std::min(first + kGroup, end); ++key) {
        float& score = scores[static_cast<size_t>(key - begin)];
        score = std::fmaf(weight, static_cast<float>(std::max(dots[key - first], 0)), score);
      }
    }
  }
  for (int64_t key = begin; key < end; ++key) {
    scores[static_cast<size_t>(key - begin)] *= FloatFromF16(key_scale[step.gate_keys.map.Slot(key)]);
  }
  return scores;
}

}  // namespace

std::vector<float> FarMass(const AttentionStep& step, int64_t t) {
  const AttentionInputs& in = step.inputs;
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
  const bool biased = step.gq.present();
  const std::vector<float> scores = biased ? FarScores(step, t) : std::vector<float>();
  std::vector<float> decoded(static_cast<size_t>(size));
  for (int64_t head = 0; head < heads; ++head) {
    const int64_t kv_head = head / heads_per_kv;
    const float* q = in.q.row<float>(t) + head * size;
    const float* q_rot = in.q_rot.row<float>(t) + head * size;
    const float sink = in.sink_logit.data<float>()[head];
    float largest = sink;
    for (size_t i = 0; i < num_keys; ++i) {
      const int64_t key = first + static_cast<int64_t>(i);
      weights[i] =
          scale * (key < window_begin
                       ? Dot(q, KeyRowValues(in.k, key, kv_head, decoded.data()), size)
                       : Dot(q_rot, in.k_rot.row<float>(key - in.k_rot_begin) + kv_head * size, size));
    }
    for (size_t i = 0; i < scores.size(); ++i) {
      weights[i + static_cast<size_t>(far_begin)] += step.bias_weight.data<float>()[head] * scores[i];
    }
    for (const float weight : weights) largest = std::max(largest, weight);
    double total = std::exp(sink - largest);
    for (float& weight : weights) {
      weight = std::exp(weight - largest);
      total += weight;
    }
    if (!std::isfinite(total)) continue;
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
