#include "eval/gate_mass.h"

#include <algorithm>
#include <bit>
#include <chrono>

#include "base/threads.h"
#include "eval/attention_mass.h"

namespace sluice {

namespace {

size_t BucketOf(int64_t distance) {
  return static_cast<size_t>(std::bit_width(static_cast<uint64_t>(distance)) - 1);
}

GateMassSample Sample(const AttentionStep& step, int64_t t) {
  const AttentionInputs& in = step.inputs;
  const TensorView& candidates = step.candidates;
  const std::vector<float> mass = FarMass(step, t);
  const int64_t begin = in.span.SinksEnd(t);
  GateMassSample sample;
  sample.layer = step.layer;
  sample.position = in.span.Position(t);
  const auto bucket_of = [&](int64_t key) -> GateMassSample::Bucket& {
    return sample.buckets[BucketOf(sample.position - key)];
  };
  const auto mass_of = [&](int64_t key) {
    return static_cast<double>(mass[static_cast<size_t>(key - begin)]);
  };
  for (int64_t key = begin; key < in.span.WindowBegin(t); ++key) bucket_of(key).far += mass_of(key);

  std::vector<int32_t> selected;
  for (int64_t j = 0; j < candidates.dim(1); ++j) {
    const int32_t key = candidates.row<int32_t>(t)[j];
    if (key < 0) continue;
    bucket_of(key).kept += mass_of(key);
    selected.push_back(key);
  }
  sample.keys = static_cast<int64_t>(selected.size());
  for (const int32_t key : LargestMass(in, t, mass, sample.keys)) {
    GateMassSample::Bucket& bucket = bucket_of(key);
    bucket.best += mass_of(key);
    ++bucket.wanted;
    if (std::binary_search(selected.begin(), selected.end(), key)) ++bucket.found;
  }
  sample.far = sample.Total().far / static_cast<double>(in.q.dim(1));
  return sample;
}

// Collects one figure's samples.
class FigureSamples {
 public:
  void Add(int64_t layer, double value) {
    const auto index = static_cast<size_t>(layer);
    if (index >= layers_.size()) layers_.resize(index + 1);
    layers_[index].sum += value;
    ++layers_[index].count;
    values_.push_back(value);
  }

  MassFigure Figure() const {
    MassFigure figure;
    if (values_.empty()) return figure;
    double sum = 0;
    for (const Layer& layer : layers_) {
      sum += layer.sum;
      figure.worst_layer = std::min(figure.worst_layer, layer.mean());
    }
    const auto n = static_cast<double>(values_.size());
    figure.mean = sum / n;
    std::vector<double> sorted = values_;
    std::sort(sorted.begin(), sorted.end());
    figure.p5 = sorted[static_cast<size_t>(0.05 * (n - 1))];
    return figure;
  }

  std::vector<double> ByLayer() const {
    std::vector<double> means;
    for (const Layer& layer : layers_) means.push_back(layer.mean());
    return means;
  }

 private:
  struct Layer {
    double sum = 0;
    int64_t count = 0;
    double mean() const { return count > 0 ? sum / static_cast<double>(count) : 1; }
  };
  std::vector<Layer> layers_;
  std::vector<double> values_;
};

// The figures of one bucket, or of all keys, over many samples.
struct BucketSamples {
  FigureSamples retained;
  FigureSamples relative;

  void Add(int64_t layer, const GateMassSample::Bucket& bucket) {
    if (bucket.far > 0) retained.Add(layer, bucket.kept / bucket.far);
    if (bucket.best > 0) relative.Add(layer, std::min(bucket.kept / bucket.best, 1.0));
  }
};

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

GateMassSample::Bucket GateMassSample::Total() const {
  Bucket total;
  for (const Bucket& bucket : buckets) {
    total.wanted += bucket.wanted;
    total.found += bucket.found;
    total.far += bucket.far;
    total.kept += bucket.kept;
    total.best += bucket.best;
  }
  return total;
}

GateMassSummary GateMass::Summary() const {
  GateMassSummary summary;
  summary.num_samples = static_cast<int64_t>(samples_.size());
  if (samples_.empty()) return summary;
  summary.recall = 0;
  BucketSamples all;
  std::array<BucketSamples, kDistanceBuckets> by_distance;
  for (const GateMassSample& sample : samples_) {
    const GateMassSample::Bucket total = sample.Total();
    all.Add(sample.layer, total);
    summary.recall += static_cast<double>(total.found) / static_cast<double>(total.wanted);
    summary.far += sample.far;
    summary.keys += static_cast<double>(sample.keys);
    for (size_t b = 0; b < kDistanceBuckets; ++b) {
      by_distance[b].Add(sample.layer, sample.buckets[b]);
      summary.by_distance[b].wanted += sample.buckets[b].wanted;
      summary.by_distance[b].found += sample.buckets[b].found;
    }
  }
  const auto n = static_cast<double>(samples_.size());
  for (double* sum : {&summary.recall, &summary.far, &summary.keys}) *sum /= n;
  summary.retained = all.retained.Figure();
  summary.relative = all.relative.Figure();
  summary.relative_by_layer = all.relative.ByLayer();
  for (size_t b = 0; b < kDistanceBuckets; ++b) {
    summary.by_distance[b].retained = by_distance[b].retained.Figure();
    summary.by_distance[b].relative = by_distance[b].relative.Figure();
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
