#include "ops/quantized_matrix.h"

#include <algorithm>
#include <cstring>

#include "base/threads.h"
#include "tensor/float16.h"

namespace sluice {
namespace {

constexpr int64_t kBlock = QuantizedMatrix::kBlock;
constexpr int64_t kPanel = QuantizedMatrix::kPanel;
constexpr int64_t kStep = QuantizedMatrix::kStep;
constexpr int64_t kPanelsPerTask = 4;

const uint16_t* HalfRow(const TensorView& view, int64_t row) {
  return static_cast<const uint16_t*>(view.raw()) + row * view.row_stride();
}

// Four codes at once: adding 128 flips the highest bit.
void PackQ8Row(const int8_t* codes, int64_t in, uint8_t* to) {
  static_assert(QuantizedMatrix::kOffset == 0x80);
  for (int64_t k = 0; k < in; k += kStep, to += kPanel * kStep) {
    uint32_t four;
    std::memcpy(&four, codes + k, sizeof(four));
    four ^= 0x80808080u;
    std::memcpy(to, &four, sizeof(four));
  }
}

// The four half bytes of a 16-bit word as four bytes.
uint32_t SpreadHalfBytes(uint32_t word) {
  word = (word | word << 8) & 0x00ff00ffu;
  return (word | word << 4) & 0x0f0f0f0fu;
}

// Eight codes at once: the first four go to the low bits of four bytes, the others to the high ones.
void PackQ4Row(const uint8_t* codes, int64_t in, uint8_t* to) {
  for (int64_t k = 0; k < in / 2; k += kStep, to += kPanel * kStep) {
    uint32_t eight;
    std::memcpy(&eight, codes + k, sizeof(eight));
    const uint32_t packed = SpreadHalfBytes(eight & 0xffffu) | SpreadHalfBytes(eight >> 16) << 4;
    std::memcpy(to, &packed, sizeof(packed));
  }
}

// Column `lane` of rows of 16.
void PackHalves(const uint16_t* from, int64_t count, int64_t lane, const TensorView& to, int64_t panel) {
  uint16_t* halves = static_cast<uint16_t*>(to.raw()) + panel * to.row_stride() + lane;
  for (int64_t i = 0; i < count; ++i) halves[i * kPanel] = from[i];
}

}  // namespace

const char* NameOf(WeightFormat format) {
  switch (format) {
    case WeightFormat::kFloat:
      return "float";
    case WeightFormat::kBF16:
      return "bf16";
    case WeightFormat::kQ8:
      return "q8";
    case WeightFormat::kQ4:
      return "q4";
  }
  return "";
}

WeightFormat ParseWeightFormat(std::string_view name, const std::string& where) {
  for (const WeightFormat format :
       {WeightFormat::kFloat, WeightFormat::kBF16, WeightFormat::kQ8, WeightFormat::kQ4}) {
    if (name == NameOf(format)) return format;
  }
  throw InputError("{}: \"{}\" is no format; there are q8, q4, bf16 and float", where, name);
}

Shape QuantizedMatrix::CodesShape(WeightFormat format, int64_t num_experts, int64_t out, int64_t in) {
  const int64_t panels = num_experts * ((out + kPanel - 1) / kPanel);
  if (format == WeightFormat::kBF16) return {panels, in, kPanel};
  return {panels, in / (format == WeightFormat::kQ8 ? kStep : 2 * kStep), kPanel, kStep};
}

int QuantizedMatrix::Code(int64_t expert, int64_t row, int64_t k) const {
  const uint8_t* panel = PanelCodes(expert, row / kPanel);
  const int64_t steps = format == WeightFormat::kQ8 ? 1 : 2;
  const uint8_t byte = panel[(k / (steps * kStep) * kPanel + row % kPanel) * kStep + k % kStep];
  if (format == WeightFormat::kQ8) return byte - kOffset;
  return k % (2 * kStep) < kStep ? byte & 15 : byte >> 4;
}

float QuantizedMatrix::Scale(int64_t expert, int64_t row, int64_t block) const {
  return FloatFromF16(PanelScales(expert, row / kPanel)[block * kPanel + row % kPanel]);
}

float QuantizedMatrix::Min(int64_t expert, int64_t row, int64_t block) const {
  if (!mins.present()) return 0;
  return FloatFromF16(PanelMins(expert, row / kPanel)[block * kPanel + row % kPanel]);
}

float QuantizedMatrix::Weight(int64_t expert, int64_t row, int64_t k) const {
  if (format == WeightFormat::kBF16) {
    return FloatFromBF16(PanelWeights(expert, row / kPanel)[k * kPanel + row % kPanel]);
  }
  return Scale(expert, row, k / kBlock) * static_cast<float>(Code(expert, row, k)) +
         Min(expert, row, k / kBlock);
}

void QuantizedMatrix::ReadRow(int64_t expert, int64_t row, float* values) const {
  if (format == WeightFormat::kBF16) {
    const uint16_t* weights = PanelWeights(expert, row / kPanel) + row % kPanel;
    for (int64_t k = 0; k < in; ++k) values[k] = FloatFromBF16(weights[k * kPanel]);
    return;
  }
  for (int64_t block = 0; block < num_blocks(); ++block) {
    const float scale = Scale(expert, row, block), min = Min(expert, row, block);
    for (int64_t k = block * kBlock; k < (block + 1) * kBlock; ++k) {
      values[k] = scale * static_cast<float>(Code(expert, row, k)) + min;
    }
  }
}

QuantizedMatrixBuffer::QuantizedMatrixBuffer(WeightFormat format, int64_t num_experts, int64_t out,
                                             int64_t in) {
  SLUICE_CHECK(format != WeightFormat::kFloat);
  view_.format = format;
  view_.num_experts = num_experts;
  view_.out = out;
  view_.in = in;
  const Shape shape = QuantizedMatrix::CodesShape(format, num_experts, out, in);
  codes_ = Buffer(format == WeightFormat::kBF16 ? DType::kBF16 : DType::kU8, shape);
  view_.codes = codes_;
  if (!HasBlocks(format)) return;
  SLUICE_CHECK_EQ(in % kBlock, 0);
  scales_ = Buffer(DType::kF16, {shape[0], view_.num_blocks(), kPanel});
  view_.scales = scales_;
  if (format != WeightFormat::kQ4) return;
  mins_ = Buffer(DType::kF16, {shape[0], view_.num_blocks(), kPanel});
  view_.mins = mins_;
}

void QuantizedMatrixBuffer::Pack(const StoredMatrix& stored, int64_t stacked) const {
  const int64_t in = view_.in, out = view_.out, panels = view_.num_panels(), blocks = view_.num_blocks();
  const bool is_q8 = view_.format == WeightFormat::kQ8, is_q4 = view_.format == WeightFormat::kQ4;
  const int64_t rows = view_.num_experts * out;
  SLUICE_CHECK(stored.codes.shape() == Shape({rows, is_q4 ? in / 2 : in}));
  SLUICE_CHECK(stored.codes.dtype() == (is_q8 ? DType::kI8 : view_.codes.dtype()));
  if (is_q8 || is_q4) SLUICE_CHECK(stored.scales.shape() == Shape({rows, blocks}));
  if (is_q4) SLUICE_CHECK(stored.mins.shape() == Shape({rows, blocks}));
  SLUICE_CHECK_EQ(panels % stacked, 0);
  const int64_t height = panels / stacked;  // Of one of the stacked matrices, in panels.
  const int64_t tasks = (height + kPanelsPerTask - 1) / kPanelsPerTask;
  ParallelFor(tasks * stacked * view_.num_experts, [&](int64_t task) {
    // The first panels of all experts and stacked matrices, then the next ones.
    const int64_t expert = task % view_.num_experts;
    const int64_t first = task / view_.num_experts % stacked * height;
    const int64_t begin = task / (view_.num_experts * stacked) * kPanelsPerTask;
    for (int64_t i = first + begin; i < first + std::min(begin + kPanelsPerTask, height); ++i) {
      const int64_t panel = expert * panels + i;
      for (int64_t lane = 0; lane < std::min(kPanel, out - i * kPanel); ++lane) {
        const int64_t row = expert * out + i * kPanel + lane;
        if (is_q8) {
          PackQ8Row(stored.codes.row<int8_t>(row), in, view_.codes.row<uint8_t>(panel) + lane * kStep);
        } else if (is_q4) {
          PackQ4Row(stored.codes.row<uint8_t>(row), in, view_.codes.row<uint8_t>(panel) + lane * kStep);
        } else {
          PackHalves(HalfRow(stored.codes, row), in, lane, view_.codes, panel);
        }
        if (is_q8 || is_q4) PackHalves(HalfRow(stored.scales, row), blocks, lane, view_.scales, panel);
        if (is_q4) PackHalves(HalfRow(stored.mins, row), blocks, lane, view_.mins, panel);
      }
    }
  });
}

int64_t QuantizedMatrixBuffer::BytesFor(WeightFormat format, int64_t num_experts, int64_t out, int64_t in) {
  const Shape shape = QuantizedMatrix::CodesShape(format, num_experts, out, in);
  constexpr auto kHalf = static_cast<int64_t>(sizeof(uint16_t));
  if (!HasBlocks(format)) return shape.num_elements() * kHalf;
  const int64_t halves = format == WeightFormat::kQ4 ? 2 : 1;
  return shape.num_elements() + halves * shape[0] * in / kBlock * kPanel * kHalf;
}

}  // namespace sluice
