// Codes of keys by residual quantisation (ops/key_codes.h). Sixteen keys at a time lie in the lanes of
// vectors, as heads do in attention; a lane does not depend on the others.
#include "ops/key_codes.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/head_plan.h"
#include "backend/cpu/row_norm.h"
#include "base/threads.h"

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/key_codes.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
#include "backend/cpu/head_kernels-inl.h"
#include "backend/cpu/key_rows-inl.h"
// clang-format on

#ifndef SLUICE_BACKEND_CPU_KEY_CODES_ONCE
#define SLUICE_BACKEND_CPU_KEY_CODES_ONCE
namespace sluice {

constexpr int64_t kKeyLanes = 16;
constexpr int64_t kCodewords = KeyCodebook::kCodewords;

// One head of a codebook, and what its products need.
struct HeadCodebook {
  const float* mean;
  const float* weight;
  const float* codewords;           // [stages · 256, channels]
  std::vector<float> half_squares;  // [stages · 256]: |w ∘ codeword|² / 2

  HeadCodebook(const KeyCodebook& book, int64_t head)
      : mean(book.mean.row<float>(head)),
        weight(book.weight.row<float>(head)),
        codewords(book.num_stages() == 0 ? nullptr : book.codewords.row<float>(head)) {
    const int64_t channels = book.mean.dim(1), count = book.num_stages() * kCodewords;
    std::vector<float> weighted(static_cast<size_t>(channels));
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t c = 0; c < channels; ++c)
        weighted[static_cast<size_t>(c)] = weight[c] * codewords[i * channels + c];
      const float norm = RowNorm(weighted.data(), channels);
      half_squares.push_back(norm * norm / 2);
    }
  }
};

}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// nearest [16]: of the codewords of a stage that whose product is highest above its half square, the lowest
// of several. products [256, 16].
void FindNearest(const float* products, const float* half_squares, int32_t* nearest) {
  const LaneTag<kKeyLanes> d;
  const hn::RebindToSigned<decltype(d)> di;
  for (int64_t part = 0; part < kKeyLanes; part += kLaneStep<kKeyLanes>) {
    auto best = hn::Set(d, -std::numeric_limits<float>::infinity());
    auto index = hn::Zero(di);
    for (int64_t i = 0; i < kCodewords; ++i) {
      const auto score = hn::Sub(hn::Load(d, products + i * kKeyLanes + part), hn::Set(d, half_squares[i]));
      const auto better = hn::Gt(score, best);
      best = hn::IfThenElse(better, score, best);
      index = hn::IfThenElse(hn::RebindMask(di, better), hn::Set(di, static_cast<int32_t>(i)), index);
    }
    hn::Store(index, di, nearest + part);
  }
}

// |w ∘ (k − k̂)|
double DistanceOf(const float* key, const HeadCodebook& book, const uint8_t* codes, int64_t stages,
                  int64_t channels) {
  double sum = 0;
  for (int64_t c = 0; c < channels; ++c) {
    double x = static_cast<double>(key[c]) - static_cast<double>(book.mean[c]);
    for (int64_t j = 0; j < stages; ++j)
      x -= static_cast<double>(book.codewords[(j * kCodewords + codes[j]) * channels + c]);
    x *= static_cast<double>(book.weight[c]);
    sum += x * x;
  }
  return std::sqrt(sum);
}

// One head of keys [begin, begin + count), count <= 16.
void EncodeLanes(const EncodeKeysArgs& args, const HeadCodebook& book, int64_t head, int64_t begin,
                 int64_t count) {
  const int64_t channels = args.k.dim(2), stages = args.codebook.num_stages();
  FloatScratch scratch(3 * kKeyLanes * channels + kCodewords * kKeyLanes);
  float* keys = scratch.Take(kKeyLanes * channels);        // [16, channels]: x
  float* weighted = scratch.Take(kKeyLanes * channels);    // [16, channels]: w² ∘ x
  float* by_channel = scratch.Take(kKeyLanes * channels);  // [channels, 16]
  float* products = scratch.Take(kCodewords * kKeyLanes);  // [256, 16]
  HWY_ALIGN int32_t nearest[kKeyLanes];
  for (int64_t i = 0; i < count; ++i) {
    const float* key = FloatRow(args.k, begin + i, head, weighted);
    for (int64_t c = 0; c < channels; ++c) keys[i * channels + c] = key[c] - book.mean[c];
  }
  for (int64_t j = 0; j < stages; ++j) {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t c = 0; c < channels; ++c)
        weighted[i * channels + c] = keys[i * channels + c] * (book.weight[c] * book.weight[c]);
    }
    TransposeHeads<kKeyLanes, kKeyLanes>(weighted, count, channels, 1.0f, by_channel);
    const float* codewords = book.codewords + j * kCodewords * channels;
    HeadDots<kKeyLanes>(StridedRows<const float>{codewords, channels}, kCodewords, by_channel, channels,
                        products);
    FindNearest(products, book.half_squares.data() + j * kCodewords, nearest);
    for (int64_t i = 0; i < count; ++i) {
      args.codes.Codes(begin + i)[head * stages + j] = static_cast<uint8_t>(nearest[i]);
      const float* codeword = codewords + nearest[i] * channels;
      for (int64_t c = 0; c < channels; ++c) keys[i * channels + c] -= codeword[c];
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t* codes = stages > 0 ? args.codes.Codes(begin + i) + head * stages : nullptr;
    const float* key = FloatRow(args.k, begin + i, head, weighted);
    args.codes.Distance(begin + i)[head] =
        KeyCodeNumerics::CodeOf(DistanceOf(key, book, codes, stages, channels));
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(EncodeLanes);

void CpuOps::EncodeKeys(const EncodeKeysArgs& args) {
  std::vector<HeadCodebook> heads;
  for (int64_t head = 0; head < args.k.dim(1); ++head) heads.emplace_back(args.codebook, head);
  const int64_t groups = (args.end_key - args.first_key + kKeyLanes - 1) / kKeyLanes;
  ParallelFor(groups, [&](int64_t group) {
    const int64_t begin = args.first_key + group * kKeyLanes;
    const int64_t count = std::min(kKeyLanes, args.end_key - begin);
    for (int64_t head = 0; head < args.k.dim(1); ++head)
      HWY_DYNAMIC_DISPATCH(EncodeLanes)(args, heads[static_cast<size_t>(head)], head, begin, count);
  });
}

}  // namespace sluice
#endif  // HWY_ONCE
