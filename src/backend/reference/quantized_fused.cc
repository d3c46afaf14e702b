// Fused steps of quantised inference passes, one after another. What is rounded to 8 bits in between was
// computed in Real, so that float32 may come out one code away where a value lies near the middle of two:
// there the value's magnitude allows for the whole step.
#include "ops/quantized_fused.h"

#include <cmath>

#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"
#include "ops/quantized_numerics.h"

namespace sluice {
namespace {

constexpr int64_t kBlock = QuantizedMatrix::kBlock;

// What the codes of a block of computed values stand for.
template <class Real>
void RoundBlock(const Real* x, Real* rounded) {
  // In units of the magnitude: how near to the middle of two codes float32 may turn to the other.
  constexpr double kNear = 4 * kTrackedEps;
  const std::vector<float> values = reference::ToFloats(x, kBlock);
  std::vector<int8_t> codes(kBlock);
  const double scale = QuantizeActivationBlock(values.data(), codes.data());
  double scale_magnitude = scale;
  for (int64_t k = 0; k < kBlock; ++k) {
    if (std::abs(codes[static_cast<size_t>(k)]) == 127) {
      scale_magnitude = std::max(scale_magnitude, scale + MagnitudeOf(x[k]) / kQuantizedMax);
    }
  }
  for (int64_t k = 0; k < kBlock; ++k) {
    const double code = codes[static_cast<size_t>(k)];
    double magnitude = std::abs(code) * (scale_magnitude + scale);
    if (scale > 0) {
      const double exact = ValueOf(x[k]) / scale;
      const double exact_magnitude =
          (MagnitudeOf(x[k]) + std::abs(exact) * scale_magnitude) / scale + std::abs(exact);
      const double to_middle = 0.5 - std::abs(exact - code);
      if (to_middle < kNear * exact_magnitude) magnitude += scale / kTrackedEps;
    }
    rounded[k] = WithMagnitude<Real>(code * scale, magnitude);
  }
}

template <class Real>
std::vector<Real> RoundRow(const Real* x, int64_t size) {
  std::vector<Real> rounded(static_cast<size_t>(size));
  for (int64_t k = 0; k < size; k += kBlock) RoundBlock(x + k, rounded.data() + k);
  return rounded;
}

// A row that is rounded already times one expert's matrix.
template <class Real>
void MultiplyRow(const std::vector<Real>& x, const QuantizedMatrix& w, int64_t expert, Real* y) {
  for (int64_t n = 0; n < w.out; ++n) {
    Real sum{};
    for (int64_t k = 0; k < w.in; ++k) {
      const double weight =
          double{w.Scale(expert, n, k / kBlock)} * w.Code(expert, n, k) + w.Min(expert, n, k / kBlock);
      sum += x[static_cast<size_t>(k)] * Constant<Real>(weight);
    }
    y[n] = sum;
  }
}

template <class Real>
void FeedForwardRow(const Real* x, const FeedForwardMatrices& w, int64_t expert, Real* y) {
  // The input of the op is exact.
  std::vector<Real> rounded(static_cast<size_t>(w.gate_up.in));
  const std::vector<float> values = reference::ToFloats(x, w.gate_up.in);
  std::vector<int8_t> codes(kBlock);
  for (int64_t k = 0; k < w.gate_up.in; k += kBlock) {
    const float scale = QuantizeActivationBlock(values.data() + k, codes.data());
    for (int64_t i = 0; i < kBlock; ++i) {
      rounded[static_cast<size_t>(k + i)] = Constant<Real>(double{scale} * codes[static_cast<size_t>(i)]);
    }
  }
  const int64_t size = w.down.in;
  std::vector<Real> gate_up(static_cast<size_t>(2 * size));
  MultiplyRow(rounded, w.gate_up, expert, gate_up.data());
  for (int64_t j = 0; j < size; ++j) {
    Real& gate = gate_up[static_cast<size_t>(j)];
    gate = gate * Sigmoid(gate) * gate_up[static_cast<size_t>(size + j)];
  }
  MultiplyRow(RoundRow(gate_up.data(), size), w.down, expert, y);
}

}  // namespace

template <class Real>
void ReferenceOps<Real>::RmsNormMatMuls(const RmsNormMatMulsArgs& args) {
  RmsNorm(args.norm);
  for (int64_t r = 0; r < args.norm.out.dim(0); ++r) {
    const std::vector<Real> rounded = RoundRow(args.norm.out.row<Real>(r), args.norm.out.dim(1));
    for (const auto& [w, y] : args.products) MultiplyRow(rounded, w, 0, y.template row<Real>(r));
  }
}

template <class Real>
void ReferenceOps<Real>::QuantizedFeedForward(const QuantizedFeedForwardArgs& args) {
  const int32_t* offsets = args.offsets.data<int32_t>();
  for (int64_t t = 0; t < args.x.dim(0); ++t) {
    for (int64_t slot = 0; slot < args.token_row.dim(1); ++slot) {
      const int32_t row = args.token_row.row<int32_t>(t)[slot];
      if (row < 0) continue;
      int64_t expert = 0;
      while (offsets[expert + 1] <= row) ++expert;
      FeedForwardRow(args.x.row<Real>(t), args.experts, expert, args.outputs.row<Real>(row));
    }
    if (args.shared.gate_up.present()) {
      FeedForwardRow(args.x.row<Real>(t), args.shared, 0, args.shared_out.row<Real>(t));
    }
  }
}

template void ReferenceOps<double>::RmsNormMatMuls(const RmsNormMatMulsArgs&);
template void ReferenceOps<Tracked>::RmsNormMatMuls(const RmsNormMatMulsArgs&);
template void ReferenceOps<double>::QuantizedFeedForward(const QuantizedFeedForwardArgs&);
template void ReferenceOps<Tracked>::QuantizedFeedForward(const QuantizedFeedForwardArgs&);

}  // namespace sluice
