// Matrices in fewer bits than float32, for inference: their formats and the layout that kernels read.
// docs/formats/weights.md says how files hold them, ops/quantize.h how weights are rounded to them.
//
//   kQ8    w = scale · code,        code in -127 .. 127;  a scale for each block of 32 weights of a row
//   kQ4    w = scale · code + min,  code in 0 .. 15;      a scale and a minimum for each block
//   kBF16  w as it is, in bfloat16
// Scales and minimums are float16; scales are not negative.
//
// Packed: 16 rows make a panel, and what a vector takes of all 16 lies together, so that a panel is read from
// its begin to its end. Rows beyond `out` weigh zero.
//   kQ8    codes[panel][k / 4][row % 16][k % 4]: code + 128, unsigned as dot products of four codes want it
//   kQ4    codes[panel][k / 8][row % 16][k % 4]: in the low four bits if k % 8 < 4, else in the high ones
//   kBF16  codes[panel][k][row % 16]
//   scales, mins[panel][k / 32][row % 16]
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace sluice {

// How a parameter is stored and multiplied.
enum class WeightFormat {
  kFloat,  // bfloat16 or float32 in the file, the backend's type in memory.
  kBF16,
  kQ8,
  kQ4,
};
const char* NameOf(WeightFormat format);  // "float", "bf16", "q8", "q4"
// Throws InputError, with `where` in front, if no format has this name.
WeightFormat ParseWeightFormat(std::string_view name, const std::string& where);

// Whether the format cuts rows into blocks, and its products round activations to 8 bits.
inline bool HasBlocks(WeightFormat format) {
  return format == WeightFormat::kQ8 || format == WeightFormat::kQ4;
}

// A matrix, or one for each of several experts, row after row as files hold it. Rows of all experts follow
// one another: rows = experts · out.
struct StoredMatrix {
  TensorView codes;   // kQ8: i8 [rows, in]; kQ4: u8 [rows, in / 2], weight 2j in the low bits of byte j;
                      // kBF16: bf16 [rows, in]
  TensorView scales;  // f16 [rows, in / 32]; absent in kBF16
  TensorView mins;    // f16 [rows, in / 32]; kQ4 alone
};

// One packed matrix [out, in], or one for each expert. A default-constructed one is absent.
struct QuantizedMatrix {
  static constexpr int64_t kBlock = 32;
  static constexpr int64_t kPanel = 16;
  static constexpr int64_t kStep = 4;  // Neighbouring codes of a row that lie together.
  static constexpr int kOffset = 128;  // Of a packed kQ8 code.

  WeightFormat format = WeightFormat::kQ8;
  int64_t num_experts = 0;  // 1: a plain matrix.
  int64_t out = 0;
  int64_t in = 0;     // A multiple of kBlock if the format has blocks.
  TensorView codes;   // u8 [experts · panels, in / 4, 16, 4], u8 [.., in / 8, 16, 4] or bf16 [.., in, 16]
  TensorView scales;  // f16 [experts · panels, in / 32, 16]; absent in kBF16
  TensorView mins;    // f16 [experts · panels, in / 32, 16]; kQ4 alone

  bool present() const { return codes.present(); }
  int64_t num_blocks() const { return in / kBlock; }
  int64_t num_panels() const { return (out + kPanel - 1) / kPanel; }  // Of one expert.

  // REQUIRES: kQ8 or kQ4.
  const uint8_t* PanelCodes(int64_t expert, int64_t panel) const {
    return codes.row<uint8_t>(expert * num_panels() + panel);
  }
  const uint16_t* PanelScales(int64_t expert, int64_t panel) const { return Halves(scales, expert, panel); }
  const uint16_t* PanelMins(int64_t expert, int64_t panel) const { return Halves(mins, expert, panel); }
  // REQUIRES: kBF16.
  const uint16_t* PanelWeights(int64_t expert, int64_t panel) const { return Halves(codes, expert, panel); }

  // One of the weights' codes: in -127 .. 127 or 0 .. 15. REQUIRES: kQ8 or kQ4.
  int Code(int64_t expert, int64_t row, int64_t k) const;
  float Scale(int64_t expert, int64_t row, int64_t block) const;
  float Min(int64_t expert, int64_t row, int64_t block) const;  // 0 in kQ8.
  // The weight itself: exact, but in kQ4 the sum is rounded to float32.
  float Weight(int64_t expert, int64_t row, int64_t k) const;
  // The same for all k: values [in].
  void ReadRow(int64_t expert, int64_t row, float* values) const;

  // Shapes of the parts of such a matrix.
  static Shape CodesShape(WeightFormat format, int64_t num_experts, int64_t out, int64_t in);

 private:
  const uint16_t* Halves(const TensorView& view, int64_t expert, int64_t panel) const {
    return static_cast<const uint16_t*>(view.raw()) + (expert * num_panels() + panel) * view.row_stride();
  }
};

// Memory of a packed matrix.
class QuantizedMatrixBuffer {
 public:
  // Codes of zero bits. REQUIRES: not kFloat; `in` is a multiple of QuantizedMatrix::kBlock if the format has
  // blocks.
  QuantizedMatrixBuffer(WeightFormat format, int64_t num_experts, int64_t out, int64_t in);

  const QuantizedMatrix& view() const { return view_; }
  // Fills it (const as a Buffer's memory is). Each of ParallelFor's threads takes the same share of the rows
  // of every expert, so that these pages, which the first write places, lie in the memory node of the thread
  // that products have read them (backend/cpu/quantized_products.h). `stacked`: matrices that stand one on
  // the other in `out`, of which a product reads the same share together: 2 for gate and up. REQUIRES: each
  // is whole panels.
  void Pack(const StoredMatrix& stored, int64_t stacked = 1) const;
  static int64_t BytesFor(WeightFormat format, int64_t num_experts, int64_t out, int64_t in);

 private:
  Buffer codes_;
  Buffer scales_;
  Buffer mins_;
  QuantizedMatrix view_;
};

}  // namespace sluice
