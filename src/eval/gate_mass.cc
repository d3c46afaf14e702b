#include "eval/gate_mass.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "base/threads.h"

namespace sluice {

namespace {

// The attention of one query over all its keys, summed over heads, on the far keys; the sum over window,
// sinks and sink logit is in the denominator only.
std::vector<double> FarMass(const AttentionInputs& in, int64_t t) {
  const int64_t heads = in.q.dim(1);
  const int64_t size = in.q.dim(2);
  const int64_t kv_heads = in.k.dim(1);
  const AttentionSpan& span = in.span;
  const int64_t position = span.Position(t);
  const int64_t first = span.First(t);
  const int64_t window_begin = span.WindowBegin(t);
  const int64_t far_begin = span.SinksEnd(t) - first;
  const int64_t num_keys = position - first + 1;
  const double scale = 1 / std::sqrt(static_cast<double>(size));
  std::vector<double> mass(static_cast<size_t>(span.NumFar(t)), 0.0);
  std::vector<double> logits(static_cast<size_t>(num_keys));
  for (int64_t head = 0; head < heads; ++head) {
    const int64_t kv_head = head / (heads / kv_heads);
    const float* q = in.q.row<float>(t) + head * size;
    const float* q_rot = in.q_rot.row<float>(t) + head * size;
    double largest = in.sink_logit.data<float>()[head];
    const double sink = largest;
    for (int64_t i = 0; i < num_keys; ++i) {
      const int64_t key = first + i;
      const bool rotated = key >= window_begin;
      const float* k = rotated ? in.k_rot.row<float>(key - in.k_rot_begin) : in.k.row<float>(key);
      k += kv_head * size;
      const float* query = rotated ? q_rot : q;
      double dot = 0;
      for (int64_t c = 0; c < size; ++c) dot += static_cast<double>(query[c]) * static_cast<double>(k[c]);
      logits[static_cast<size_t>(i)] = dot * scale;
      largest = std::max(largest, dot * scale);
    }
    double total = std::exp(sink - largest);
    for (double& logit : logits) {
      logit = std::exp(logit - largest);
      total += logit;
    }
    for (size_t i = 0; i < mass.size(); ++i) mass[i] += logits[i + static_cast<size_t>(far_begin)] / total;
  }
  return mass;
}

GateMassSample Sample(const AttentionInputs& in, const TensorView& candidates, int64_t layer, int64_t t) {
  std::vector<double> mass = FarMass(in, t);
  GateMassSample sample;
  sample.layer = layer;
  sample.position = in.span.Position(t);
  double total = 0;
  for (const double value : mass) total += value;
  sample.far = total / static_cast<double>(in.q.dim(1));
  double kept = 0;
  int64_t k = 0;
  for (int64_t j = 0; j < candidates.dim(1); ++j) {
    const int32_t key = candidates.row<int32_t>(t)[j];
    if (key < 0) continue;
    kept += mass[static_cast<size_t>(key - in.span.SinksEnd(t))];
    ++k;
  }
  std::nth_element(mass.begin(), mass.begin() + k, mass.end(), std::greater<>());
  double best = 0;
  for (int64_t i = 0; i < k; ++i) best += mass[static_cast<size_t>(i)];
  sample.retained = total > 0 ? kept / total : 1;
  sample.oracle = total > 0 ? best / total : 1;
  return sample;
}

}  // namespace

void GateMass::OnAttention(int64_t layer, const AttentionInputs& inputs, const TensorView& candidates) {
  if (!candidates.present()) return;
  const auto start = std::chrono::steady_clock::now();
  const int64_t begin = inputs.span.query_offset;
  const auto from = std::lower_bound(positions_.begin(), positions_.end(), begin);
  const auto to = std::lower_bound(from, positions_.end(), begin + inputs.q.dim(0));
  std::vector<int64_t> rows;
  for (auto position = from; position != to; ++position) {
    if (inputs.span.NumFar(*position - begin) > candidates.dim(1)) rows.push_back(*position - begin);
  }
  const size_t old_size = samples_.size();
  samples_.resize(old_size + rows.size());
  ParallelFor(static_cast<int64_t>(rows.size()), [&](int64_t i) {
    const auto index = static_cast<size_t>(i);
    samples_[old_size + index] = Sample(inputs, candidates, layer, rows[index]);
  });
  seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

GateMassSummary GateMass::Summary() const {
  GateMassSummary summary;
  summary.num_samples = static_cast<int64_t>(samples_.size());
  if (samples_.empty()) return summary;
  struct Mean {
    double sum = 0;
    double count = 0;
  };
  std::map<int64_t, Mean> layers;
  std::vector<double> relative;
  summary.retained = summary.relative = 0;
  const auto n = static_cast<double>(samples_.size());
  for (const GateMassSample& sample : samples_) {
    summary.retained += sample.retained / n;
    summary.relative += sample.relative() / n;
    summary.far += sample.far / n;
    relative.push_back(sample.relative());
    layers[sample.layer].sum += sample.relative();
    layers[sample.layer].count += 1;
  }
  std::sort(relative.begin(), relative.end());
  summary.relative_p5 = relative[static_cast<size_t>(0.05 * (n - 1))];
  for (const auto& [layer, mean] : layers)
    summary.worst_layer = std::min(summary.worst_layer, mean.sum / mean.count);
  return summary;
}

std::vector<int64_t> SpreadPositions(int64_t num_tokens, int64_t count) {
  std::vector<int64_t> positions;
  count = std::min(count, num_tokens);
  for (int64_t i = 1; i <= count; ++i) positions.push_back(num_tokens * i / count - 1);
  return positions;
}

}  // namespace sluice
