// How much of full attention's mass a selection keeps, on a sample of queries. With m[s] the mass of a far
// key (attention_mass.h; window and sinks never count):
//   retained = Σ_selected m / Σ_far m
//   oracle   = Σ of the k largest m / Σ_far m,   k = number of selected keys
//   relative = retained / oracle                 ("gating accuracy")
//   recall   = share of the k keys of largest m that are selected
//   far      = Σ_far m / heads                   how much the query looks far at all
// The same by distance d from the query, over the keys of a bucket 2^b <= d < 2^(b+1); there `relative` is
// at most 1, as a selection may have keys in a bucket in which the oracle has fewer.
// Queries whose far keys all fit the selection are left out: there nothing is chosen.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "model/pass.h"

namespace sluice {

// Index b: distances [2^b, 2^(b+1)).
inline constexpr size_t kDistanceBuckets = 24;

struct GateMassSample {
  struct Bucket {
    int64_t wanted = 0;  // Of the oracle's keys: all, and those that are selected.
    int64_t found = 0;
    double far = 0;  // Mass of the far keys, of the selected and of the oracle's.
    double kept = 0;
    double best = 0;
  };

  int64_t layer = 0;
  int64_t position = 0;
  int64_t keys = 0;  // Selected.
  double far = 0;
  std::array<Bucket, kDistanceBuckets> buckets = {};

  // All buckets together.
  Bucket Total() const;
};

// Of a figure's samples, which are pairs of query and layer. 1 where there are none.
struct MassFigure {
  double mean = 1;
  double p5 = 1;           // 5th percentile.
  double worst_layer = 1;  // The lowest mean of a layer.
};

struct GateMassSummary {
  struct Distance {
    int64_t wanted = 0;  // Sums.
    int64_t found = 0;
    MassFigure retained;
    MassFigure relative;

    // REQUIRES: wanted > 0.
    double recall() const { return static_cast<double>(found) / static_cast<double>(wanted); }
  };

  int64_t num_samples = 0;
  double recall = 1;  // Means.
  double far = 0;
  double keys = 0;
  MassFigure retained;
  MassFigure relative;
  std::vector<double> relative_by_layer;
  std::array<Distance, kDistanceBuckets> by_distance = {};
};

class GateMass : public PassObserver {
 public:
  // Looks at the queries at these positions of the timeline, ascending, in every layer.
  explicit GateMass(std::vector<int64_t> positions) : positions_(std::move(positions)) {}
  // Other positions from now on; the samples taken stay.
  void SetPositions(std::vector<int64_t> positions) { positions_ = std::move(positions); }

  void OnAttention(const AttentionStep& step) override;

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
  void Add(PassObserver* observer) { observers_.push_back(observer); }
  void OnAttention(const AttentionStep& step) override {
    for (PassObserver* observer : observers_) observer->OnAttention(step);
  }
  void OnGuarantee(int64_t layer, const GuaranteedAttentionArgs& args) override {
    for (PassObserver* observer : observers_) observer->OnGuarantee(layer, args);
  }
  void OnRouting(const RoutingStep& step) override {
    for (PassObserver* observer : observers_) observer->OnRouting(step);
  }

 private:
  std::vector<PassObserver*> observers_;
};

}  // namespace sluice
