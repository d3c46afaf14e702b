#include "ops/quantized_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/threads.h"
#include "ops/quantized_numerics.h"
#include "tensor/float16.h"

namespace sluice {
namespace {

constexpr int64_t kRowsPerTask = 256;
constexpr int64_t kPanelsPerTask = 16;

// Rows [begin, end) of one expert, at most a panel, row-major, into a panel.
void PackPanel(const int8_t* codes, const uint16_t* scales, int64_t num_rows, int64_t in, int8_t* panel_codes,
               uint16_t* panel_scales) {
  constexpr int64_t kPanel = QuantizedMatrix::kPanel;
  constexpr int64_t kStep = QuantizedMatrix::kStep;
  const int64_t num_blocks = in / QuantizedMatrix::kBlock;
  for (int64_t row = 0; row < num_rows; ++row) {
    int8_t* to = panel_codes + row * kStep;
    for (int64_t k = 0; k < in; k += kStep, to += kPanel * kStep) {
      std::memcpy(to, codes + row * in + k, kStep);
    }
    for (int64_t b = 0; b < num_blocks; ++b) panel_scales[b * kPanel + row] = scales[row * num_blocks + b];
  }
}

// Returns the scale's bits; not finite where the block has no scale in range.
uint16_t QuantizeBlock(const float* w, int8_t* codes) {
  float largest = 0;
  for (int64_t i = 0; i < QuantizedMatrix::kBlock; ++i) {
    if (!std::isfinite(w[i])) return F16FromFloat(w[i]);
    largest = std::max(largest, std::abs(w[i]));
  }
  const uint16_t bits = F16FromFloat(largest / kQuantizedMax);
  const float scale = FloatFromF16(bits);
  if (!std::isfinite(scale)) return bits;
  for (int64_t i = 0; i < QuantizedMatrix::kBlock; ++i) {
    const float code = scale > 0 ? std::nearbyint(w[i] / scale) : 0.0f;
    codes[i] = static_cast<int8_t>(std::clamp(code, -kQuantizedMax, kQuantizedMax));
  }
  return bits;
}

}  // namespace

float QuantizedMatrix::Scale(int64_t expert, int64_t row, int64_t block) const {
  return FloatFromF16(PanelScales(expert, row / kPanel)[block * kPanel + row % kPanel]);
}

QuantizedMatrixBuffer::QuantizedMatrixBuffer(int64_t num_experts, int64_t out, int64_t in) {
  SLUICE_CHECK_EQ(in % QuantizedMatrix::kBlock, 0);
  view_.num_experts = num_experts;
  view_.out = out;
  view_.in = in;
  const int64_t panels = num_experts * view_.num_panels();
  codes_ = Buffer(DType::kI8,
                  {panels, in / QuantizedMatrix::kStep, QuantizedMatrix::kPanel, QuantizedMatrix::kStep});
  scales_ = Buffer(DType::kF16, {panels, view_.num_blocks(), QuantizedMatrix::kPanel});
  view_.codes = codes_;
  view_.scales = scales_;
}

void QuantizedMatrixBuffer::Pack(const TensorView& codes, const TensorView& scales) const {
  const int64_t in = view_.in, out = view_.out, panels = view_.num_panels(), blocks = view_.num_blocks();
  SLUICE_CHECK(codes.contiguous() && codes.shape() == Shape({view_.num_experts * out, in}));
  SLUICE_CHECK(scales.contiguous() && scales.shape() == Shape({view_.num_experts * out, blocks}));
  const int8_t* from_codes = codes.data<int8_t>();
  const auto* from_scales = static_cast<const uint16_t*>(scales.raw());
  auto* to_scales = static_cast<uint16_t*>(scales_.view().raw());
  ParallelForRange(view_.num_experts * panels, kPanelsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t panel_row = i % panels * QuantizedMatrix::kPanel;
      const int64_t row = i / panels * out + panel_row;
      PackPanel(from_codes + row * in, from_scales + row * blocks,
                std::min(QuantizedMatrix::kPanel, out - panel_row), in, codes_.view().row<int8_t>(i),
                to_scales + i * scales_.view().row_stride());
    }
  });
}

int64_t QuantizedMatrixBuffer::BytesFor(int64_t num_experts, int64_t out, int64_t in) {
  const int64_t rows =
      num_experts * ((out + QuantizedMatrix::kPanel - 1) / QuantizedMatrix::kPanel) * QuantizedMatrix::kPanel;
  return rows * (in + in / QuantizedMatrix::kBlock * static_cast<int64_t>(sizeof(uint16_t)));
}

void QuantizeRows(const TensorView& weights, const TensorView& codes, const TensorView& scales,
                  const char* what) {
  const int64_t rows = weights.dim(0), in = weights.dim(1), blocks = in / QuantizedMatrix::kBlock;
  SLUICE_CHECK_EQ(in % QuantizedMatrix::kBlock, 0);
  SLUICE_CHECK(codes.shape() == weights.shape() && scales.shape() == Shape({rows, blocks}));
  auto* scale_bits = static_cast<uint16_t*>(scales.raw());
  ParallelForRange(rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t k = b * QuantizedMatrix::kBlock;
        const uint16_t bits = QuantizeBlock(weights.row<float>(row) + k, codes.row<int8_t>(row) + k);
        scale_bits[row * scales.row_stride() + b] = bits;
        if (std::isfinite(FloatFromF16(bits))) continue;
        throw InputError(
            "{}: row {} has a weight between columns {} and {} that is not finite or above 8,000,000; 8-bit "
            "blocks cannot hold it: take the weights from a checkpoint before the training went wrong",
            what, row, k, k + QuantizedMatrix::kBlock - 1);
      }
    }
  });
}

}  // namespace sluice
