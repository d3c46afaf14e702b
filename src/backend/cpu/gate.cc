// The gate's operations along lists of candidates, and the small ones: the causal convolution, packing
// of keys, and distillation. Scores of listed keys use unquantised keys; the scan over all keys is in
// gate_select.cc. With u = gq_h · gk_s and w = softplus(gw_h):
//   dgq_h = Σ_s dscore w [u > 0] gk_s;  dgk_s = Σ_h dscore w [u > 0] gq_h
//   dgw_h = sigmoid(gw_h) Σ_s dscore max(0, u)
#include "ops/gate.h"

#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/head_plan.h"
#include "base/threads.h"
#include "ops/gate_numerics.h"

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/gate.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
#include "backend/cpu/head_kernels-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// acc[c] += x[c] · weight[c].
void MultiplyAddRow(const float* x, const float* weight, int64_t size, float* acc) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + lanes <= size; c += lanes) {
    hn::StoreU(hn::MulAdd(hn::LoadU(d, x + c), hn::LoadU(d, weight + c), hn::LoadU(d, acc + c)), d, acc + c);
  }
  if (c < size) {
    const size_t rest = static_cast<size_t>(size - c);
    const FloatVec sum = hn::MulAdd(LoadPartial(d, x + c, rest), LoadPartial(d, weight + c, rest),
                                    LoadPartial(d, acc + c, rest));
    StorePartial(sum, d, acc + c, rest);
  }
}

// Gate rows of the present candidates of one query.
struct CandidateRows {
  std::vector<const float*> rows;
  std::vector<int32_t> column;
  std::vector<int32_t> key;
  void Build(const TensorView& candidates, const TensorView& gk, int64_t t) {
    rows.clear();
    column.clear();
    key.clear();
    const int32_t* list = candidates.row<int32_t>(t);
    for (int64_t col = 0; col < candidates.dim(1); ++col) {
      if (list[col] < 0) continue;
      rows.push_back(gk.row<float>(list[col]));
      column.push_back(static_cast<int32_t>(col));
      key.push_back(list[col]);
    }
  }
  int64_t size() const { return static_cast<int64_t>(rows.size()); }
};

// Queries [begin, end).
void GateScoresTile(const GateScoresArgs& args, int64_t begin, int64_t end) {
  const int64_t heads = args.gq.dim(1);
  const int64_t size = args.gq.dim(2);
  const int64_t width = args.candidates.dim(1);
  FloatScratch scratch(kHeadLanes * PaddedChannels(size) + (width + 16) * kHeadLanes);
  float* by_channel = scratch.Take(kHeadLanes * PaddedChannels(size));
  float* dots = scratch.Take((width + 8) * kHeadLanes);
  CandidateRows list;
  for (int64_t t = begin; t < end; ++t) {
    list.Build(args.candidates, args.gk, t);
    float* scores = args.scores.row<float>(t);
    std::fill_n(scores, width, 0.0f);
    for (int64_t first = 0; first < heads; first += kHeadLanes) {
      const int64_t rows = std::min(kHeadLanes, heads - first);
      TransposeHeads<kHeadLanes>(args.gq.row<float>(t) + first * size, rows, size, 1.0f, by_channel);
      HeadDots<kHeadLanes>(ListedRows<const float>{list.rows.data()}, list.size(), by_channel, size, dots);
      HWY_ALIGN float weight[kHeadLanes] = {};
      for (int64_t h = 0; h < rows; ++h) weight[h] = GateHeadWeight(args.gw.row<float>(t)[first + h]);
      for (int64_t j = 0; j < list.size(); ++j) {
        HWY_ALIGN float terms[kHeadLanes];
        for (int64_t h = 0; h < kHeadLanes; ++h) {
          terms[h] = weight[h] * std::max(0.0f, dots[j * kHeadLanes + h]);
        }
        scores[list.column[static_cast<size_t>(j)]] += SumHeads(terms);
      }
    }
    float lowest = std::numeric_limits<float>::infinity();
    const int32_t* candidates = args.candidates.row<int32_t>(t);
    for (int64_t col = 0; col < args.num_selected; ++col) {
      lowest = candidates[col] < 0 ? -std::numeric_limits<float>::infinity() : std::min(lowest, scores[col]);
      if (candidates[col] < 0) break;
    }
    args.threshold.data<float>()[t] = lowest;
  }
}

// Queries [begin, end); dgk is the private row of key 0.
void GateScoresGradRange(const GateScoresGradArgs& args, int64_t begin, int64_t end, float* dgk) {
  const int64_t heads = args.gq.dim(1);
  const int64_t size = args.gq.dim(2);
  const int64_t width = args.candidates.dim(1);
  const int64_t padded = PaddedChannels(size);
  FloatScratch scratch(3 * kHeadLanes * padded + (width + 16) * kHeadLanes);
  float* by_head = scratch.Take(kHeadLanes * padded);
  float* by_channel = scratch.Take(kHeadLanes * padded);
  float* acc = scratch.Take(kHeadLanes * padded);
  float* dots = scratch.Take((width + 8) * kHeadLanes);
  HWY_ALIGN float ones[kHeadLanes];
  std::fill_n(ones, kHeadLanes, 1.0f);
  CandidateRows list;
  std::vector<float*> grad_rows;
  for (int64_t t = begin; t < end; ++t) {
    list.Build(args.candidates, args.gk, t);
    const float* dscores = args.dscores.row<float>(t);
    grad_rows.clear();
    for (const int32_t s : list.key) grad_rows.push_back(dgk + s * size);
    for (int64_t first = 0; first < heads; first += kHeadLanes) {
      const int64_t rows = std::min(kHeadLanes, heads - first);
      PadHeads(args.gq.row<float>(t) + first * size, rows, size, 1.0f, by_head);
      TransposeHeads<kHeadLanes>(args.gq.row<float>(t) + first * size, rows, size, 1.0f, by_channel);
      HeadDots<kHeadLanes>(ListedRows<const float>{list.rows.data()}, list.size(), by_channel, size, dots);
      HWY_ALIGN float weight[kHeadLanes] = {};
      HWY_ALIGN float dweight[kHeadLanes] = {};
      const float* gw = args.gw.row<float>(t) + first;
      for (int64_t h = 0; h < rows; ++h) weight[h] = GateHeadWeight(gw[h]);
      for (int64_t j = 0; j < list.size(); ++j) {
        const float dscore = dscores[list.column[static_cast<size_t>(j)]];
        float* row = dots + j * kHeadLanes;
        for (int64_t h = 0; h < kHeadLanes; ++h) {
          dweight[h] += dscore * std::max(0.0f, row[h]);
          row[h] = row[h] > 0 ? dscore * weight[h] : 0.0f;
        }
      }
      std::fill_n(acc, kHeadLanes * padded, 0.0f);
      WeightedSum<kHeadLanes>(ListedRows<const float>{list.rows.data()}, list.size(), dots, rows, size, acc);
      StoreHeads(acc, ones, rows, size, args.dgq.row<float>(t) + first * size);
      SpreadHeads<kHeadLanes>(ListedRows<float>{grad_rows.data()}, list.size(), dots, by_head, rows, size);
      for (int64_t h = 0; h < rows; ++h) {
        args.dgw.row<float>(t)[first + h] = dweight[h] / (1.0f + std::exp(-gw[h]));
      }
    }
  }
}

// Queries [begin, end).
void GateKlTile(const GateKlArgs& args, int64_t begin, int64_t end) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t width = args.scores.dim(1);
  const int64_t padded = (width + lanes - 1) / lanes * lanes;
  const float scale = static_cast<float>(args.scale);
  FloatScratch scratch(3 * (padded + 16));
  float* score = scratch.Take(padded);  // −infinity where absent
  float* target = scratch.Take(padded);
  float* prob = scratch.Take(padded);
  const float absent = -std::numeric_limits<float>::infinity();
  for (int64_t t = begin; t < end; ++t) {
    const int32_t* candidates = args.candidates.row<int32_t>(t);
    const float* scores = args.scores.row<float>(t);
    const float* targets = args.target.row<float>(t);
    float* dscores = args.dscores.row<float>(t);
    float highest = absent;
    float target_sum = 0;
    for (int64_t j = 0; j < padded; ++j) {
      const bool present = j < width && candidates[j] >= 0;
      score[j] = present ? scores[j] : absent;
      target[j] = present ? targets[j] : 0.0f;
      highest = std::max(highest, score[j]);
      target_sum += target[j];
    }
    std::fill_n(dscores, width, 0.0f);
    args.loss.data<float>()[t] = 0;
    if (!(target_sum > 0)) continue;
    FloatVec total = hn::Zero(d);
    const FloatVec m = hn::Set(d, highest);
    for (int64_t j = 0; j < padded; j += lanes) {
      const FloatVec p = ExpNonPositive(d, hn::Sub(hn::Load(d, score + j), m));
      hn::Store(p, d, prob + j);
      total = hn::Add(total, p);
    }
    const float sum = HorizontalSum(d, total);
    const FloatVec lse = hn::Set(d, highest + std::log(sum));
    const FloatVec tiny = hn::Set(d, std::numeric_limits<float>::min());
    FloatVec divergence = hn::Zero(d);
    for (int64_t j = 0; j < padded; j += lanes) {
      const FloatVec p = hn::Load(d, target + j);
      const FloatVec log_ratio =
          hn::Sub(Logarithm(d, hn::Max(p, tiny)), hn::Sub(hn::Load(d, score + j), lse));
      divergence =
          hn::Add(divergence, hn::IfThenElse(hn::Gt(p, hn::Zero(d)), hn::Mul(p, log_ratio), hn::Zero(d)));
    }
    const float weight = args.mass.data<float>()[t] + static_cast<float>(args.mass_floor);
    args.loss.data<float>()[t] = weight * HorizontalSum(d, divergence);
    const float inverse = 1.0f / sum;
    for (int64_t j = 0; j < width; ++j) dscores[j] = scale * weight * (prob[j] * inverse - target[j]);
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(MultiplyAddRow);
HWY_EXPORT(GateScoresTile);
HWY_EXPORT(GateScoresGradRange);
HWY_EXPORT(GateKlTile);

namespace {

constexpr int64_t kRowsPerTask = 64;
constexpr int64_t kListsPerTask = 16;
constexpr int64_t kGradPartitions = 8;

int64_t SegmentFirst(const TensorView& segment_start, int64_t t) {
  return segment_start.present() ? segment_start.data<int32_t>()[t] : 0;
}

// weight [channels, width] as [width, channels].
std::vector<float> TransposeWeight(const TensorView& weight) {
  const int64_t channels = weight.dim(0);
  const int64_t width = weight.dim(1);
  std::vector<float> transposed(static_cast<size_t>(channels * width));
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t j = 0; j < width; ++j)
      transposed[static_cast<size_t>(j * channels + c)] = weight.row<float>(c)[j];
  }
  return transposed;
}

}  // namespace

void CpuOps::CausalConv(const CausalConvArgs& args) {
  const int64_t channels = args.x.dim(1);
  const int64_t width = args.weight.dim(1);
  const std::vector<float> weight = TransposeWeight(args.weight);
  ParallelForRange(args.x.dim(0), kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* out = args.out.row<float>(t);
      std::fill_n(out, channels, 0.0f);
      const int64_t first = SegmentFirst(args.segment_start, t);
      for (int64_t j = 0; j < width; ++j) {
        const int64_t row = t - (width - 1) + j;
        if (args.first_position + row < first) continue;
        if (row < 0 && !args.history.present()) continue;
        const float* x = row < 0 ? args.history.row<float>(width - 1 + row) : args.x.row<float>(row);
        HWY_DYNAMIC_DISPATCH(MultiplyAddRow)(x, weight.data() + j * channels, channels, out);
      }
    }
  });
}

void CpuOps::CausalConvGrad(const CausalConvGradArgs& args) {
  const int64_t tokens = args.x.dim(0);
  const int64_t channels = args.x.dim(1);
  const int64_t width = args.weight.dim(1);
  const std::vector<float> weight = TransposeWeight(args.weight);
  ParallelForRange(tokens, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* dx = args.dx.row<float>(t);
      std::fill_n(dx, channels, 0.0f);
      for (int64_t j = width - 1; j >= 0; --j) {
        const int64_t reader = t + (width - 1) - j;
        if (reader >= tokens || SegmentFirst(args.segment_start, reader) > t) continue;
        HWY_DYNAMIC_DISPATCH(MultiplyAddRow)
        (args.dout.row<float>(reader), weight.data() + j * channels, channels, dx);
      }
    }
  });
  std::vector<float> dweight(static_cast<size_t>(width * channels), 0.0f);
  ParallelFor(width, [&](int64_t j) {
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t row = t - (width - 1) + j;
      if (row < SegmentFirst(args.segment_start, t) || row < 0) continue;
      HWY_DYNAMIC_DISPATCH(MultiplyAddRow)
      (args.x.row<float>(row), args.dout.row<float>(t), channels, dweight.data() + j * channels);
    }
  });
  for (int64_t c = 0; c < channels; ++c) {
    float* row = args.dweight_acc.row<float>(c);
    for (int64_t j = 0; j < width; ++j) row[j] += dweight[static_cast<size_t>(j * channels + c)];
  }
}

void CpuOps::PackGateKeys(const PackGateKeysArgs& args) {
  const int64_t size = args.gk.dim(1);
  int8_t* packed = static_cast<int8_t*>(args.keys.packed.raw());
  uint16_t* scale = static_cast<uint16_t*>(args.keys.scale.raw());
  ParallelForRange(args.gk.dim(0), kRowsPerTask, [&](int64_t begin, int64_t end) {
    std::vector<int8_t> codes(static_cast<size_t>(size));
    for (int64_t t = begin; t < end; ++t) {
      const int64_t slot = args.keys.map.Slot(args.first_key + t);
      scale[slot] = PackOneGateKey(args.gk.row<float>(t), size, codes.data());
      for (int64_t c = 0; c < size; ++c)
        packed[GateCodeOffset(slot, c, size)] = codes[static_cast<size_t>(c)];
    }
  });
}

void CpuOps::UnpackGateKeys(const UnpackGateKeysArgs& args) {
  const int64_t size = args.gk.dim(1);
  const auto* packed = static_cast<const int8_t*>(args.keys.packed.raw());
  const auto* scales = static_cast<const uint16_t*>(args.keys.scale.raw());
  ParallelForRange(args.gk.dim(0), kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      const int64_t slot = args.keys.map.Slot(s);
      const float scale = FloatFromF16(scales[slot]);
      float* row = args.gk.row<float>(s);
      for (int64_t c = 0; c < size; ++c) row[c] = scale * packed[GateCodeOffset(slot, c, size)];
    }
  });
}

void CpuOps::GateScores(const GateScoresArgs& args) {
  ParallelForRange(args.gq.dim(0), kListsPerTask, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(GateScoresTile)(args, begin, end);
  });
}

void CpuOps::GateScoresGrad(const GateScoresGradArgs& args) {
  const int64_t tokens = args.gq.dim(0);
  const int64_t parts = std::clamp<int64_t>(tokens / 32, 1, kGradPartitions);
  std::vector<QueryPartition> partitions;
  for (int64_t i = 0; i < parts; ++i) {
    QueryPartition part{tokens * i / parts, tokens * (i + 1) / parts, args.gk.dim(0), 0};
    for (int64_t t = part.begin; t < part.end; ++t) {
      const int32_t* row = args.candidates.row<int32_t>(t);
      for (int64_t col = 0; col < args.candidates.dim(1); ++col) {
        if (row[col] < 0) continue;
        part.first_key = std::min<int64_t>(part.first_key, row[col]);
        part.end_key = std::max<int64_t>(part.end_key, row[col] + 1);
      }
    }
    part.end_key = std::max(part.end_key, part.first_key);
    partitions.push_back(part);
  }
  PartitionedRows dgk(partitions, args.gk.dim(1));
  ParallelFor(parts, [&](int64_t i) {
    const QueryPartition& part = partitions[static_cast<size_t>(i)];
    dgk.Clear(i);
    HWY_DYNAMIC_DISPATCH(GateScoresGradRange)(args, part.begin, part.end, dgk.Base(i));
  });
  dgk.Reduce(args.dgk);
}

void CpuOps::GateKl(const GateKlArgs& args) {
  ParallelForRange(args.scores.dim(0), kListsPerTask, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(GateKlTile)(args, begin, end);
  });
}

}  // namespace sluice
#endif  // HWY_ONCE
