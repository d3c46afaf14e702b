// How attention and the gate split their work, by shape alone. The vector kernels put up to 8 heads
// that share a key row in the lanes of a vector, so the unit is a group of at most 8 heads. Gradients
// of keys are summed over queries: the queries are cut into a few contiguous partitions of about equal
// work, each with private sums over the keys that it can see, which are added in order afterwards.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/threads.h"
#include "hwy/aligned_allocator.h"
#include "ops/attention.h"

namespace sluice {

inline constexpr double kLog2E = 1.4426950408889634;

// Heads in the lanes of a vector; rows of head scratch are padded to it with zeros.
inline constexpr int64_t kHeadLanes = 8;

// Query heads [first_head, first_head + rows) all read key/value head kv_head.
struct HeadGroup {
  int64_t kv_head = 0;
  int64_t first_head = 0;
  int64_t rows = 0;
};

inline std::vector<HeadGroup> HeadGroups(int64_t query_heads, int64_t kv_heads) {
  std::vector<HeadGroup> groups;
  const int64_t per_kv_head = query_heads / kv_heads;
  for (int64_t g = 0; g < kv_heads; ++g) {
    for (int64_t h = 0; h < per_kv_head; h += kHeadLanes) {
      groups.push_back({g, g * per_kv_head + h, std::min(kHeadLanes, per_kv_head - h)});
    }
  }
  return groups;
}

// weight [8]: the bias weights of a group's heads times `scale`, 0 where there is no head.
inline void LoadBiasWeight(const FarBias& bias, const HeadGroup& group, double scale, float* weight) {
  std::fill_n(weight, kHeadLanes, 0.0f);
  for (int64_t h = 0; h < group.rows; ++h) {
    weight[h] = static_cast<float>(scale * bias.weight.data<float>()[group.first_head + h]);
  }
}

// Channels of a padded row: whole vectors on every target.
inline int64_t PaddedChannels(int64_t size) {
  return (size + 15) / 16 * 16;
}

// Aligned, uncleared floats of one task.
class FloatScratch {
 public:
  explicit FloatScratch(int64_t capacity)
      : capacity_(capacity), memory_(hwy::AllocateAligned<float>(static_cast<size_t>(capacity))) {}
  float* Take(int64_t count) {
    const int64_t begin = used_;
    used_ += (count + 15) / 16 * 16;
    SLUICE_CHECK_LE(used_, capacity_);
    return memory_.get() + begin;
  }

 private:
  int64_t capacity_;
  int64_t used_ = 0;
  hwy::AlignedFreeUniquePtr<float[]> memory_;
};

struct QueryPartition {
  int64_t begin = 0;  // Queries [begin, end).
  int64_t end = 0;
  int64_t first_key = 0;  // They see keys [first_key, end_key).
  int64_t end_key = 0;
};

// At most `max_parts` partitions of about equal Σ work(t). REQUIRES: span.query_offset = 0.
template <class Work>
std::vector<QueryPartition> PartitionQueries(const AttentionSpan& span, int64_t tokens, int64_t max_parts,
                                             const Work& work) {
  double total = 0;
  for (int64_t t = 0; t < tokens; ++t) total += static_cast<double>(work(t));
  const int64_t parts = std::clamp<int64_t>(tokens / 32, 1, max_parts);
  std::vector<QueryPartition> result;
  double done = 0;
  int64_t begin = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    done += static_cast<double>(work(t));
    const double target = total * static_cast<double>(result.size() + 1) / static_cast<double>(parts);
    if (t + 1 == tokens || done >= target) {
      result.push_back({begin, t + 1, span.First(begin), t + 1});
      begin = t + 1;
    }
  }
  return result;
}

// Private sums of `columns` floats per key and partition, and their ordered reduction.
class PartitionedRows {
 public:
  PartitionedRows(const std::vector<QueryPartition>& partitions, int64_t columns)
      : partitions_(partitions), columns_(columns) {
    for (const QueryPartition& part : partitions_) {
      const int64_t count = std::max<int64_t>((part.end_key - part.first_key) * columns_, 1);
      sums_.push_back(hwy::AllocateAligned<float>(static_cast<size_t>(count)));
    }
  }
  // Clears the sums of a partition; called by the task that fills them.
  void Clear(int64_t part_idx) {
    const QueryPartition& part = partitions_[static_cast<size_t>(part_idx)];
    std::fill_n(sums_[static_cast<size_t>(part_idx)].get(), (part.end_key - part.first_key) * columns_, 0.0f);
  }
  // Row of key 0 of a partition; only rows from its first_key on exist.
  float* Base(int64_t part_idx) {
    return sums_[static_cast<size_t>(part_idx)].get() -
           partitions_[static_cast<size_t>(part_idx)].first_key * columns_;
  }
  // out[s] = Σ over the partitions that see key s, in order.
  void Reduce(const TensorView& out) {
    ParallelForRange(out.dim(0), 256, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) std::fill_n(out.row<float>(s), columns_, 0.0f);
      for (size_t i = 0; i < partitions_.size(); ++i) {
        const float* base = Base(static_cast<int64_t>(i));
        const int64_t first = std::max(begin, partitions_[i].first_key);
        const int64_t last = std::min(end, partitions_[i].end_key);
        for (int64_t s = first; s < last; ++s) {
          float* row = out.row<float>(s);
          for (int64_t c = 0; c < columns_; ++c) row[c] += base[s * columns_ + c];
        }
      }
    });
  }

 private:
  const std::vector<QueryPartition>& partitions_;
  int64_t columns_;
  std::vector<hwy::AlignedFreeUniquePtr<float[]>> sums_;
};

// Private sums of a short vector per partition.
class PartitionedVectors {
 public:
  PartitionedVectors(size_t partitions, int64_t size)
      : size_(size), sums_(partitions * static_cast<size_t>(size), 0.0f) {}
  float* Row(int64_t part_idx) { return sums_.data() + part_idx * size_; }
  // out[i] += Σ over partitions, in order.
  void AddTo(const TensorView& out) const {
    float* row = out.data<float>();
    for (size_t i = 0; i < sums_.size(); ++i) row[static_cast<int64_t>(i) % size_] += sums_[i];
  }

 private:
  int64_t size_;
  std::vector<float> sums_;
};

}  // namespace sluice
