// Matrices in 8 bits, for inference: the format Q8, its arithmetic, and the layout that kernels read.
//
// Q8: a row of `in` weights is cut into blocks of 32; each has 32 codes in [-127, 127] and one float16 scale:
//   scale = f16(max|w| / 127),  code = round(w / scale) to nearest even,  w ≈ scale · code
// A block whose scale rounds to 0 is all zeros. docs/formats/weights.md says how files hold it.
//
// Packed: 16 rows make a panel. Four neighbouring codes of each of its rows lie together, so that one vector
// is a step along `in` of all 16 rows, and a panel is read from its begin to its end:
//   codes[panel][k / 4][row % 16][k % 4],  scales[panel][k / 32][row % 16];  rows beyond `out` are zeros.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace sluice {

// One matrix [out, in], or one for each expert. A default-constructed one is absent.
struct QuantizedMatrix {
  static constexpr int64_t kBlock = 32;
  static constexpr int64_t kPanel = 16;
  static constexpr int64_t kStep = 4;

  int64_t num_experts = 0;  // 1: a plain matrix.
  int64_t out = 0;
  int64_t in = 0;     // A multiple of kBlock.
  TensorView codes;   // i8 [experts · panels, in / 4, 16, 4]
  TensorView scales;  // f16 [experts · panels, in / 32, 16]

  bool present() const { return codes.present(); }
  int64_t num_blocks() const { return in / kBlock; }
  int64_t num_panels() const { return (out + kPanel - 1) / kPanel; }  // Of one expert.

  const int8_t* PanelCodes(int64_t expert, int64_t panel) const {
    return codes.row<int8_t>(expert * num_panels() + panel);
  }
  const uint16_t* PanelScales(int64_t expert, int64_t panel) const {
    return static_cast<const uint16_t*>(scales.raw()) + (expert * num_panels() + panel) * scales.row_stride();
  }
  int8_t Code(int64_t expert, int64_t row, int64_t k) const {
    return PanelCodes(expert, row / kPanel)[(k / kStep * kPanel + row % kPanel) * kStep + k % kStep];
  }
  float Scale(int64_t expert, int64_t row, int64_t block) const;
};

// Memory of a packed matrix.
class QuantizedMatrixBuffer {
 public:
  // Zeros. REQUIRES: `in` is a multiple of QuantizedMatrix::kBlock.
  QuantizedMatrixBuffer(int64_t num_experts, int64_t out, int64_t in);

  const QuantizedMatrix& view() const { return view_; }
  // Fills it (const as a Buffer's memory is) from codes, i8 [experts · out, in], and scales, f16 [experts ·
  // out, in / 32], row after row.
  void Pack(const TensorView& codes, const TensorView& scales) const;
  static int64_t BytesFor(int64_t num_experts, int64_t out, int64_t in);

 private:
  Buffer codes_;
  Buffer scales_;
  QuantizedMatrix view_;
};

// The format's arithmetic for float32 weights [rows, in], into codes and scales as Pack takes them. Throws
// InputError, with `what` in front, if a weight is not finite or too large for a float16 scale.
void QuantizeRows(const TensorView& weights, const TensorView& codes, const TensorView& scales,
                  const char* what);

}  // namespace sluice
