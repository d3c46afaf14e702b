// Cross-entropy over a row of logits, in passes that stay in cache: the maximum, then Σ exp(x − max).
// The logarithm and the last sums are in float64.
#include "ops/loss.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/cpu_ops.h"
#include "base/threads.h"

// The order of these matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/loss.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

constexpr int64_t kChains = 4;

float RowMax(const float* x, int64_t size) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  float largest = -std::numeric_limits<float>::infinity();
  int64_t j = 0;
  if (size >= kChains * lanes) {
    FloatVec most[kChains];
    for (int64_t c = 0; c < kChains; ++c) most[c] = hn::LoadU(d, x + c * lanes);
    for (j = kChains * lanes; j + kChains * lanes <= size; j += kChains * lanes) {
      for (int64_t c = 0; c < kChains; ++c) most[c] = hn::Max(most[c], hn::LoadU(d, x + j + c * lanes));
    }
    largest = HorizontalMax(d, hn::Max(hn::Max(most[0], most[1]), hn::Max(most[2], most[3])));
  }
  for (; j < size; ++j) largest = std::max(largest, x[j]);
  return largest;
}

// Σ exp(x − largest); the terms are written to `terms` unless it is null.
template <bool kStores>
float SumExpRow(const float* x, float largest, int64_t size, float* terms) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const FloatVec top = hn::Set(d, largest);
  FloatVec sums[kChains] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  int64_t j = 0;
  for (; j + kChains * lanes <= size; j += kChains * lanes) {
    for (int64_t c = 0; c < kChains; ++c) {
      const FloatVec term = ExpNonPositive(d, hn::Sub(hn::LoadU(d, x + j + c * lanes), top));
      if constexpr (kStores) hn::StoreU(term, d, terms + j + c * lanes);
      sums[c] = hn::Add(sums[c], term);
    }
  }
  for (; j < size; j += lanes) {
    const int64_t count = std::min(lanes, size - j);
    const size_t n = static_cast<size_t>(count);
    FloatVec term =
        ExpNonPositive(d, hn::Sub(count == lanes ? hn::LoadU(d, x + j) : LoadPartial(d, x + j, n), top));
    if (count < lanes) term = hn::IfThenElseZero(hn::FirstN(d, n), term);
    if constexpr (kStores) {
      if (count == lanes) {
        hn::StoreU(term, d, terms + j);
      } else {
        StorePartial(term, d, terms + j, n);
      }
    }
    sums[0] = hn::Add(sums[0], term);
  }
  return HorizontalSum(d, hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])));
}

// Of Σⱼ softmax(teacher)ⱼ · (top − xⱼ): the sums over e^teacher that it is the quotient of.
struct TeacherSums {
  double weight = 0;     // Σ exp(teacher − its maximum)
  double shortfall = 0;  // Σ exp(teacher − its maximum) · (top − x)
};
TeacherSums TeacherSumsRow(const float* teacher, float teacher_top, const float* x, float top, int64_t size) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  FloatVec weight = hn::Zero(d), shortfall = hn::Zero(d);
  for (int64_t j = 0; j < size; j += lanes) {
    const size_t n = static_cast<size_t>(std::min(lanes, size - j));
    const FloatVec from = hn::Sub(hn::Set(d, top), LoadPartial(d, x + j, n));
    FloatVec term = ExpNonPositive(d, hn::Sub(LoadPartial(d, teacher + j, n), hn::Set(d, teacher_top)));
    term = hn::IfThenElseZero(hn::FirstN(d, n), term);
    weight = hn::Add(weight, term);
    shortfall = hn::MulAdd(term, hn::IfThenElseZero(hn::FirstN(d, n), from), shortfall);
  }
  return {HorizontalSum(d, weight), HorizontalSum(d, shortfall)};
}

// dlogits −= scale · softmax(teacher).
void SubtractTeacherRow(const float* teacher, int64_t size, float scale, float* dlogits) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const float top = RowMax(teacher, size);
  const double sum = SumExpRow<false>(teacher, top, size, nullptr);
  const FloatVec by = hn::Set(d, static_cast<float>(-scale / sum));
  for (int64_t j = 0; j < size; j += lanes) {
    const size_t n = static_cast<size_t>(std::min(lanes, size - j));
    const FloatVec term = ExpNonPositive(d, hn::Sub(LoadPartial(d, teacher + j, n), hn::Set(d, top)));
    StorePartial(hn::MulAdd(term, by, LoadPartial(d, dlogits + j, n)), d, dlogits + j, n);
  }
}

// `teacher` may be null.
float CrossEntropyRow(const float* logits, int64_t vocab, int64_t target, const float* teacher,
                      double teacher_share) {
  const float largest = RowMax(logits, vocab);
  const double log_sum = std::log(static_cast<double>(SumExpRow<false>(logits, largest, vocab, nullptr)));
  double loss = static_cast<double>(largest) - logits[target];
  if (teacher != nullptr) {
    const TeacherSums sums = TeacherSumsRow(teacher, RowMax(teacher, vocab), logits, largest, vocab);
    loss += teacher_share * (sums.shortfall / sums.weight - loss);
  }
  return static_cast<float>(loss + log_sum);
}

void CrossEntropyGradRow(const float* logits, int64_t vocab, int64_t target, const float* teacher,
                         double teacher_share, float weight, float* dlogits) {
  const float largest = RowMax(logits, vocab);
  const double sum = SumExpRow<true>(logits, largest, vocab, dlogits);
  const float scale = static_cast<float>(weight / sum);
  const float own = static_cast<float>(weight * (dlogits[target] / sum - (1.0 - teacher_share)));
  for (int64_t j = 0; j < vocab; ++j) dlogits[j] *= scale;
  dlogits[target] = own;
  if (teacher != nullptr) {
    SubtractTeacherRow(teacher, vocab, static_cast<float>(weight * teacher_share), dlogits);
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(CrossEntropyRow);
HWY_EXPORT(CrossEntropyGradRow);

namespace {

constexpr int64_t kTokensPerTask = 8;

// Null without a teacher.
const float* TeacherRow(const TeacherTargets& teacher, int64_t t) {
  return teacher.logits.present() ? teacher.logits.row<float>(t) : nullptr;
}

}  // namespace

void CpuOps::CrossEntropy(const CrossEntropyArgs& args) {
  const int64_t vocab = args.logits.dim(1);
  const int32_t* targets = args.targets.data<int32_t>();
  float* loss = args.loss.data<float>();
  ParallelForRange(args.logits.dim(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      loss[t] = targets[t] < 0
                    ? 0.0f
                    : HWY_DYNAMIC_DISPATCH(CrossEntropyRow)(args.logits.row<float>(t), vocab, targets[t],
                                                            TeacherRow(args.teacher, t), args.teacher.share);
    }
  });
}

void CpuOps::CrossEntropyGrad(const CrossEntropyGradArgs& args) {
  const int64_t vocab = args.logits.dim(1);
  const int32_t* targets = args.targets.data<int32_t>();
  const float* weight = args.weight.data<float>();
  ParallelForRange(args.logits.dim(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* dlogits = args.dlogits.row<float>(t);
      if (targets[t] < 0) {
        std::fill_n(dlogits, vocab, 0.0f);
      } else {
        HWY_DYNAMIC_DISPATCH(CrossEntropyGradRow)
        (args.logits.row<float>(t), vocab, targets[t], TeacherRow(args.teacher, t), args.teacher.share,
         weight[t], dlogits);
      }
    }
  });
}

}  // namespace sluice
#endif  // HWY_ONCE
