// How much of full attention's mass a selection keeps, on a sample of queries. With m[s] the mass of a far
// key (attention_mass.h; window and sinks never count):
//   retained = Σ_selected m / Σ_far m
//   oracle   = Σ of the k largest m / Σ_far m,   k = number of selected keys
//   relative = retained / oracle                 ("gating accuracy")
//   recall   = share of the k keys of largest m that are selected
//   far      = Σ_far m / heads                   how much the query looks far at all
// Queries whose far keys all fit the selection are left out: there nothing is chosen.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "model/pass.h"

namespace sluice {

// Number of keys at distances [2^b, 2^(b+1)), b the index.
using DistanceCounts = std::array<int64_t, 24>;

struct GateMassSample {
  int64_t layer = 0;
  int64_t position = 0;
  double retained = 0;
  double oracle = 0;
  double far = 0;
  // Of the oracle's keys, by distance from the query: all, and those that are selected.
  DistanceCounts wanted = {};
  DistanceCounts found = {};

  double relative() const { return oracle > 0 ? retained / oracle : 1; }
  double recall() const;
};

struct GateMassSummary {
  int64_t num_samples = 0;  // Pairs of query and layer.
  double retained = 1;      // Means.
  double relative = 1;
  double recall = 1;
  double far = 0;
  double relative_p5 = 1;  // 5th percentile over samples.
  double worst_layer = 1;  // The lowest mean of a layer's relative figure.
  std::vector<double> relative_by_layer;
  DistanceCounts wanted = {};  // Sums.
  DistanceCounts found = {};

  // REQUIRES: wanted[bucket] > 0.
  double RecallAt(size_t bucket) const {
    return static_cast<double>(found[bucket]) / static_cast<double>(wanted[bucket]);
  }
};

class GateMass : public PassObserver {
 public:
  // Looks at the queries at these positions of the timeline, ascending, in every layer.
  explicit GateMass(std::vector<int64_t> positions) : positions_(std::move(positions)) {}

  void OnAttention(int64_t layer, const AttentionInputs& inputs, const TensorView& candidates) override;

  const std::vector<GateMassSample>& samples() const { return samples_; }
  GateMassSummary Summary() const;
  // Time that sampling took, which is no part of a model's speed.
  double seconds() const { return seconds_; }

 private:
  std::vector<int64_t> positions_;
  std::vector<GateMassSample> samples_;
  double seconds_ = 0;
};

// `count` positions spread evenly over [0, num_tokens), the last one included.
std::vector<int64_t> SpreadPositions(int64_t num_tokens, int64_t count);

// Passes every call on to several observers.
class ObserverList : public PassObserver {
 public:
  explicit ObserverList(std::vector<PassObserver*> observers) : observers_(std::move(observers)) {}
  void OnAttention(int64_t layer, const AttentionInputs& inputs, const TensorView& candidates) override {
    for (PassObserver* observer : observers_) observer->OnAttention(layer, inputs, candidates);
  }
  void OnGuarantee(int64_t layer, const GuaranteedAttentionArgs& args) override {
    for (PassObserver* observer : observers_) observer->OnGuarantee(layer, args);
  }
  void OnRouting(int64_t layer, const TensorView& experts) override {
    for (PassObserver* observer : observers_) observer->OnRouting(layer, experts);
  }

 private:
  std::vector<PassObserver*> observers_;
};

}  // namespace sluice
