// The kernel of the forward matrix product y = x wᵀ (float32).
//
// w is packed into panels: PanelColumns() output columns, k-major, so that one vector load gives one k
// of neighbouring columns. Every y[r, n] is a chain of fused multiply-adds over k in ascending order,
// restarted each kProductDepth values of k, whose partial results are added in order. The chain does
// not depend on the other rows or columns, so neither do the bits of y.
#pragma once

#include <cstdint>

namespace sluice {

// Values of k in one chain; one block of x rows of this depth stays in the first-level cache.
inline constexpr int64_t kProductDepth = 256;

// y[r, n] = Σ_k x[r, k] w[n, k] with r < rows, n < out, k < in; strides in elements.
struct Product {
  const float* x = nullptr;
  int64_t x_stride = 0;
  const float* w = nullptr;
  int64_t w_stride = 0;
  // In place of w: bfloat16 in panels of 16 columns, [k][16], so many elements apart. Products are those of
  // the widened values.
  const uint16_t* w_panels = nullptr;
  int64_t w_panel_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  int64_t rows = 0;
  int64_t out = 0;
  int64_t in = 0;
  bool x_transposed = false;  // x lies as [in, rows].
  bool w_transposed = false;  // w lies as [in, out].
  bool accumulates = false;   // y += rather than y =.
  bool lower_only = false;    // Only y[r, n] with n <= r is wanted; the rest may or may not be written.
};

// Columns of a panel and rows of a register tile on this machine.
struct ProductTile {
  int64_t panel_columns;
  int64_t tile_rows;
};
ProductTile GetProductTile();

// Packs columns [n_begin, n_end) of the product into `packed`: per kProductDepth values of k, panel
// after panel, the last filled up with zeros; (n_end − n_begin, rounded up to whole panels) · in floats.
// REQUIRES: packed 64-byte aligned; n_begin is a multiple of 16 if w is in panels.
void PackProductPanels(const Product& product, int64_t n_begin, int64_t n_end, float* packed);

// Rows [r_begin, r_end) × columns [n_begin, n_end) of y, from what the call above packed for the same
// columns.
void MultiplyPacked(const Product& product, int64_t r_begin, int64_t r_end, int64_t n_begin, int64_t n_end,
                    const float* packed);

// Columns [n_begin, n_end) of the only row, from w as it lies: what one decoded token needs of w is read
// once, so packing it would cost more than the product. The same bits as the two calls above.
// REQUIRES: rows = 1, nothing transposed or accumulated; n_begin is a multiple of 16 if w is in panels.
void MultiplyOneRow(const Product& product, int64_t n_begin, int64_t n_end);

}  // namespace sluice
