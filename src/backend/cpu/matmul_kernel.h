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
  const float* x;
  int64_t x_stride;
  const float* w;
  int64_t w_stride;
  float* y;
  int64_t y_stride;
  int64_t rows;
  int64_t out;
  int64_t in;
};

// Columns of a panel and rows of a register tile on this machine.
struct ProductTile {
  int64_t panel_columns;
  int64_t tile_rows;
};
ProductTile GetProductTile();

// Packs columns [n_begin, n_end) of the product into `packed`, panel after panel, each of
// panel_columns · in floats, the last filled up with zeros. REQUIRES: n_begin a multiple of
// panel_columns; packed 64-byte aligned.
void PackProductPanels(const Product& product, int64_t n_begin, int64_t n_end, float* packed);

// Rows [r_begin, r_end) × columns [n_begin, n_end) of y; `packed` starts at n_begin's panel.
void MultiplyPacked(const Product& product, int64_t r_begin, int64_t r_end, int64_t n_begin, int64_t n_end,
                    const float* packed);

// Columns [n_begin, n_end) of the only row, from w as it lies: what one decoded token needs of w is read
// once, so packing it would cost more than the product. The same bits as the two calls above.
// REQUIRES: rows = 1.
void MultiplyOneRow(const Product& product, int64_t n_begin, int64_t n_end);

}  // namespace sluice
