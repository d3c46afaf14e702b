#include "eval/gate_mass.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <numeric>

#include "base/threads.h"
#include "eval/attention_mass.h"

namespace sluice {

namespace {

GateMassSample Sample(const AttentionStep& step, int64_t t) {
  const AttentionInputs& in = step.inputs;
  const TensorView& candidates = step.candidates;
  const std::vector<float> mass = FarMass(step, t);
  const int64_t begin = in.span.SinksEnd(t);
  const auto mass_of = [&](int32_t key) {
    return static_cast<double>(mass[static_cast<size_t>(key - begin)]);
  };
  GateMassSample sample;
  sample.layer = step.layer;
  sample.position = in.span.Position(t);
  const double total = std::accumulate(mass.begin(), mass.end(), 0.0);
  sample.far = total / static_cast<double>(in.q.dim(1));

  std::vector<int32_t> selected;
  double kept = 0;
  for (int64_t j = 0; j < candidates.dim(1); ++j) {
    const int32_t key = candidates.row<int32_t>(t)[j];
    if (key < 0) continue;
    kept += mass_of(key);
    selected.push_back(key);
  }
  double best = 0;
  for (const int32_t key : LargestMass(in, t, mass, static_cast<int64_t>(selected.size()))) {
    best += mass_of(key);
    const auto bucket = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(sample.position - key)) - 1);
    ++sample.wanted[bucket];
    if (std::binary_search(selected.begin(), selected.end(), key)) ++sample.found[bucket];
  }
  sample.retained = total > 0 ? kept / total : 1;
  sample.oracle = total > 0 ? best / total : 1;
  return sample;
}

}  // namespace

void GateMass::OnAttention(const AttentionStep& step) {
  const AttentionInputs& inputs = step.inputs;
  const TensorView& candidates = step.candidates;
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
    samples_[old_size + index] = Sample(step, rows[index]);
  });
  seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double GateMassSample::recall() const {
  const auto all = std::accumulate(wanted.begin(), wanted.end(), int64_t{0});
  const auto hits = std::accumulate(found.begin(), found.end(), int64_t{0});
  return all > 0 ? static_cast<double>(hits) / static_cast<double>(all) : 1;
}

GateMassSummary GateMass::Summary() const {
  GateMassSummary summary;
  summary.num_samples = static_cast<int64_t>(samples_.size());
  if (samples_.empty()) return summary;
  summary.retained = summary.relative = summary.recall = 0;
  std::vector<double> relative;
  std::vector<double> layer_samples;
  const auto n = static_cast<double>(samples_.size());
  for (const GateMassSample& sample : samples_) {
    summary.retained += sample.retained;
    summary.relative += sample.relative();
    summary.recall += sample.recall();
    summary.far += sample.far;
    relative.push_back(sample.relative());
    const auto layer = static_cast<size_t>(sample.layer);
    if (layer >= layer_samples.size()) {
      layer_samples.resize(layer + 1, 0.0);
      summary.relative_by_layer.resize(layer + 1, 0.0);
    }
    layer_samples[layer] += 1;
    summary.relative_by_layer[layer] += sample.relative();
    for (size_t bucket = 0; bucket < sample.wanted.size(); ++bucket) {
      summary.wanted[bucket] += sample.wanted[bucket];
      summary.found[bucket] += sample.found[bucket];
    }
  }
  for (double* sum : {&summary.retained, &summary.relative, &summary.recall, &summary.far}) *sum /= n;
  std::sort(relative.begin(), relative.end());
  summary.relative_p5 = relative[static_cast<size_t>(0.05 * (n - 1))];
  for (size_t layer = 0; layer < layer_samples.size(); ++layer) {
    double& mean = summary.relative_by_layer[layer];
    mean = layer_samples[layer] > 0 ? mean / layer_samples[layer] : 1;
    summary.worst_layer = std::min(summary.worst_layer, mean);
  }
  return summary;
}

std::vector<int64_t> SpreadPositions(int64_t num_tokens, int64_t count) {
  std::vector<int64_t> positions;
  count = std::min(count, num_tokens);
  for (int64_t i = 1; i <= count; ++i) positions.push_back(num_tokens * i / count - 1);
  return positions;
}

}  // namespace sluice
