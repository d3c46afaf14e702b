// Register tile: tile_rows × 2 vectors of accumulators. Per k it loads two vectors of the packed panel
// (second-level cache, sequential) and broadcasts one value of each row of x (first-level cache, copied
// to k-major order or to a fixed row distance, so that no power-of-two stride of the caller's makes rows
// share cache sets).
#include "backend/cpu/matmul_kernel.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "backend/cpu/scratch.h"
#include "ops/quantized_matrix.h"

// The order of these matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/matmul_kernel.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// 28 of 32 registers accumulate with AVX-512, 12 of 16 with AVX2.
#if HWY_TARGET <= HWY_AVX3
constexpr int kTileRows = 14;
#elif HWY_TARGET == HWY_SCALAR
constexpr int kTileRows = 4;
#else
constexpr int kTileRows = 6;
#endif
constexpr int64_t kXStride = kProductDepth + 16;
constexpr int64_t kPanelColumns = 2 * static_cast<int64_t>(hn::MaxLanes(FloatTag()));

void GetTile(ProductTile* tile) {
  tile->panel_columns = kPanelColumns;
  tile->tile_rows = kTileRows;
}

// panel[k][n] = w[n][k] for k < in, n < columns; 0 up to panel_columns.
void PackPanel(const float* HWY_RESTRICT w, int64_t w_stride, int64_t columns, int64_t in,
               float* HWY_RESTRICT panel) {
  constexpr int64_t width = kPanelColumns;
  int64_t n = 0;
#if HWY_TARGET != HWY_SCALAR
  // Blocks of 4 × 4, transposed in registers.
  const hn::Full128<float> d4;
  const hn::Full128<double> d2;
  for (; n + 4 <= columns; n += 4) {
    const float* row = w + n * w_stride;
    int64_t k = 0;
    for (; k + 4 <= in; k += 4) {
      const auto a = hn::LoadU(d4, row + k);
      const auto b = hn::LoadU(d4, row + w_stride + k);
      const auto c = hn::LoadU(d4, row + 2 * w_stride + k);
      const auto e = hn::LoadU(d4, row + 3 * w_stride + k);
      const auto ab_low = hn::BitCast(d2, hn::InterleaveLower(d4, a, b));
      const auto ab_high = hn::BitCast(d2, hn::InterleaveUpper(d4, a, b));
      const auto ce_low = hn::BitCast(d2, hn::InterleaveLower(d4, c, e));
      const auto ce_high = hn::BitCast(d2, hn::InterleaveUpper(d4, c, e));
      float* out = panel + k * width + n;
      hn::Store(hn::BitCast(d4, hn::InterleaveLower(d2, ab_low, ce_low)), d4, out);
      hn::Store(hn::BitCast(d4, hn::InterleaveUpper(d2, ab_low, ce_low)), d4, out + width);
      hn::Store(hn::BitCast(d4, hn::InterleaveLower(d2, ab_high, ce_high)), d4, out + 2 * width);
      hn::Store(hn::BitCast(d4, hn::InterleaveUpper(d2, ab_high, ce_high)), d4, out + 3 * width);
    }
    for (; k < in; ++k) {
      for (int64_t i = 0; i < 4; ++i) panel[k * width + n + i] = row[i * w_stride + k];
    }
  }
#endif
  for (; n < columns; ++n) {
    for (int64_t k = 0; k < in; ++k) panel[k * width + n] = w[n * w_stride + k];
  }
  for (; n < width; ++n) {
    for (int64_t k = 0; k < in; ++k) panel[k * width + n] = 0.0f;
  }
}

// Cuts rows of `count` floats into strips: out[strip][k][i] = from[k][strip · kStrip + i], the last strip
// filled up with zeros. Reads row after row, which the hardware prefetches even from far memory.
template <int64_t kStrip>
void CopyStrips(const float* HWY_RESTRICT from, int64_t stride, int64_t count, int64_t depth,
                float* HWY_RESTRICT out) {
  const int64_t whole = count / kStrip * kStrip;
  for (int64_t k = 0; k < depth; ++k) {
    const float* row = from + k * stride;
    float* to = out + k * kStrip;
    for (int64_t n = 0; n < whole; n += kStrip, to += kStrip * depth) std::copy_n(row + n, kStrip, to);
    if (whole == count) continue;
    std::copy_n(row + whole, count - whole, to);
    std::fill_n(to + count - whole, kStrip - (count - whole), 0.0f);
  }
}

constexpr int64_t kBF16Panel = QuantizedMatrix::kPanel;

// Where column n of w begins, at value k.
HWY_INLINE const uint16_t* BF16Column(const Product& p, int64_t n, int64_t k) {
  return p.w_panels + n / kBF16Panel * p.w_panel_stride + k * kBF16Panel + n % kBF16Panel;
}

// panel[k][n] = w[n][k], widened, from panels that may be narrower or wider.
void WidenPanel(const Product& p, int64_t n, int64_t k, int64_t columns, int64_t depth,
                float* HWY_RESTRICT panel) {
  constexpr int64_t kPart = std::min(kBF16Panel, kPanelColumns);
  for (int64_t part = 0; part < kPanelColumns; part += kPart) {
    if (part >= columns) {
      for (int64_t i = 0; i < depth; ++i) std::fill_n(panel + i * kPanelColumns + part, kPart, 0.0f);
      continue;
    }
    const uint16_t* HWY_RESTRICT from = BF16Column(p, n + part, k);
    for (int64_t i = 0; i < depth; ++i) {
      for (int64_t c = 0; c < kPart; ++c) {
        panel[i * kPanelColumns + part + c] =
            std::bit_cast<float>(static_cast<uint32_t>(from[i * kBF16Panel + c]) << 16);
      }
    }
  }
}

void PackPanels(const Product& p, int64_t n_begin, int64_t n_end, int64_t k, int64_t depth, float* packed) {
  if (p.w_panels != nullptr) {
    for (int64_t n = n_begin; n < n_end; n += kPanelColumns, packed += kPanelColumns * depth) {
      WidenPanel(p, n, k, n_end - n, depth, packed);
    }
    return;
  }
  if (p.w_transposed) {
    CopyStrips<kPanelColumns>(p.w + k * p.w_stride + n_begin, p.w_stride, n_end - n_begin, depth, packed);
    return;
  }
  for (int64_t n = n_begin; n < n_end; n += kPanelColumns, packed += kPanelColumns * depth) {
    PackPanel(p.w + n * p.w_stride + k, p.w_stride, std::min(kPanelColumns, n_end - n), depth, packed);
  }
}

// One tile of kRows rows and `columns` <= 2 vectors; overwrites y or adds to it. x is [k][kTileRows] if
// kTransposed, else [row][kXStride].
template <int kRows, bool kTransposed>
void Tile(const float* HWY_RESTRICT x, const float* HWY_RESTRICT panel, int64_t depth, bool adds,
          int64_t columns, float* HWY_RESTRICT y, int64_t y_stride) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  FloatVec low[kRows];
  FloatVec high[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    low[r] = hn::Zero(d);
    high[r] = hn::Zero(d);
  }
  for (int64_t k = 0; k < depth; ++k) {
    const FloatVec w_low = hn::Load(d, panel + k * 2 * lanes);
    const FloatVec w_high = hn::Load(d, panel + k * 2 * lanes + lanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const FloatVec value = hn::Set(d, kTransposed ? x[k * kTileRows + r] : x[r * kXStride + k]);
      low[r] = hn::MulAdd(value, w_low, low[r]);
      high[r] = hn::MulAdd(value, w_high, high[r]);
    }
  }
  if (columns == 2 * lanes) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      float* out = y + r * y_stride;
      if (adds) {
        low[r] = hn::Add(hn::LoadU(d, out), low[r]);
        high[r] = hn::Add(hn::LoadU(d, out + lanes), high[r]);
      }
      hn::StoreU(low[r], d, out);
      hn::StoreU(high[r], d, out + lanes);
    }
    return;
  }
  HWY_ALIGN float edge[2 * HWY_MAX_BYTES / sizeof(float)];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    hn::Store(low[r], d, edge);
    hn::Store(high[r], d, edge + lanes);
    float* out = y + r * y_stride;
    for (int64_t n = 0; n < columns; ++n) out[n] = adds ? out[n] + edge[n] : edge[n];
  }
}

using TileFunction = void (*)(const float*, const float*, int64_t, bool, int64_t, float*, int64_t);

template <bool kTransposed, size_t... kIndices>
constexpr std::array<TileFunction, sizeof...(kIndices)> MakeTiles(std::index_sequence<kIndices...>) {
  return {&Tile<static_cast<int>(kIndices) + 1, kTransposed>...};
}
// Entry r - 1 handles r rows.
constexpr auto kTiles = MakeTiles<false>(std::make_index_sequence<kTileRows>());
constexpr auto kTransposedTiles = MakeTiles<true>(std::make_index_sequence<kTileRows>());

struct TransposedX;

void Multiply(const Product& p, int64_t r_begin, int64_t r_end, int64_t n_begin, int64_t n_end,
              const float* packed) {
  const int64_t padded_columns = (n_end - n_begin + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
  const auto& tiles = p.x_transposed ? kTransposedTiles : kTiles;
  HWY_ALIGN float x_rows[kTileRows * kXStride];
  const int64_t padded_rows = (r_end - r_begin + kTileRows - 1) / kTileRows * kTileRows;
  float* x_strips = p.x_transposed ? ThreadScratch<TransposedX>(padded_rows * kProductDepth) : nullptr;
  for (int64_t k = 0; k < p.in; k += kProductDepth) {
    const int64_t depth = std::min(kProductDepth, p.in - k);
    if (p.x_transposed) {
      CopyStrips<kTileRows>(p.x + k * p.x_stride + r_begin, p.x_stride, r_end - r_begin, depth, x_strips);
    }
    const float* panels = packed + k * padded_columns;
    for (int64_t r = r_begin; r < r_end; r += kTileRows) {
      const int64_t rows = std::min<int64_t>(kTileRows, r_end - r);
      const float* x = p.x_transposed ? x_strips + (r - r_begin) * depth : x_rows;
      for (int64_t i = 0; i < rows && !p.x_transposed; ++i) {
        std::copy_n(p.x + (r + i) * p.x_stride + k, depth, x_rows + i * kXStride);
      }
      const int64_t n_stop = p.lower_only ? std::min(n_end, r + rows) : n_end;
      for (int64_t n = n_begin; n < n_stop; n += kPanelColumns) {
        tiles[static_cast<size_t>(rows - 1)](x, panels + (n - n_begin) * depth, depth, k > 0 || p.accumulates,
                                             std::min(kPanelColumns, n_end - n), p.y + r * p.y_stride + n,
                                             p.y_stride);
      }
    }
  }
}

// y[n] of one column, k after k in the order of the tiles.
float OneColumn(const float* x, const float* w, int64_t in) {
  const hn::CappedTag<float, 1> d;
  float total = 0.0f;
  for (int64_t begin = 0; begin < in; begin += kProductDepth) {
    auto sum = hn::Zero(d);
    for (int64_t k = begin; k < std::min(in, begin + kProductDepth); ++k) {
      sum = hn::MulAdd(hn::Set(d, x[k]), hn::Set(d, w[k]), sum);
    }
    total = begin == 0 ? hn::GetLane(sum) : total + hn::GetLane(sum);
  }
  return total;
}

#if HWY_TARGET != HWY_SCALAR
// Sixteen columns of one row: blocks of 4 columns × 4 k are transposed in registers, so that each lane
// walks along k like a lane of a tile. The lines of the next sixteen rows are fetched meanwhile: rows are too
// short for the hardware to follow, and decoding a token is 1.6 times faster for it (bench/model_bench.cc).
void SixteenColumns(const float* HWY_RESTRICT x, const float* HWY_RESTRICT w, int64_t w_stride, int64_t in,
                    float* HWY_RESTRICT y) {
  const hn::Full128<float> d;
  const hn::Full128<double> d2;
  constexpr int kGroups = 4;
  for (int64_t begin = 0; begin < in; begin += kProductDepth) {
    const int64_t end = std::min(in, begin + kProductDepth);
    hn::Vec<decltype(d)> sums[kGroups];
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) sums[g] = hn::Zero(d);
    int64_t k = begin;
    for (; k + 4 <= end; k += 4) {
      const auto x0 = hn::Set(d, x[k]);
      const auto x1 = hn::Set(d, x[k + 1]);
      const auto x2 = hn::Set(d, x[k + 2]);
      const auto x3 = hn::Set(d, x[k + 3]);
#pragma GCC unroll 4
      for (int g = 0; g < kGroups; ++g) {
        const float* row = w + 4 * g * w_stride + k;
        if (k / 4 % kGroups == g) {  // Once per line of 16 floats.
          for (int i = 0; i < 4; ++i) __builtin_prefetch(row + (16 + i) * w_stride, 0, 2);
        }
        const auto a = hn::LoadU(d, row);
        const auto b = hn::LoadU(d, row + w_stride);
        const auto c = hn::LoadU(d, row + 2 * w_stride);
        const auto e = hn::LoadU(d, row + 3 * w_stride);
        const auto ab_low = hn::BitCast(d2, hn::InterleaveLower(d, a, b));
        const auto ab_high = hn::BitCast(d2, hn::InterleaveUpper(d, a, b));
        const auto ce_low = hn::BitCast(d2, hn::InterleaveLower(d, c, e));
        const auto ce_high = hn::BitCast(d2, hn::InterleaveUpper(d, c, e));
        sums[g] = hn::MulAdd(x0, hn::BitCast(d, hn::InterleaveLower(d2, ab_low, ce_low)), sums[g]);
        sums[g] = hn::MulAdd(x1, hn::BitCast(d, hn::InterleaveUpper(d2, ab_low, ce_low)), sums[g]);
        sums[g] = hn::MulAdd(x2, hn::BitCast(d, hn::InterleaveLower(d2, ab_high, ce_high)), sums[g]);
        sums[g] = hn::MulAdd(x3, hn::BitCast(d, hn::InterleaveUpper(d2, ab_high, ce_high)), sums[g]);
      }
    }
    for (; k < end; ++k) {
      for (int g = 0; g < kGroups; ++g) {
        const float* at = w + 4 * g * w_stride + k;
        HWY_ALIGN const float column[4] = {at[0], at[w_stride], at[2 * w_stride], at[3 * w_stride]};
        sums[g] = hn::MulAdd(hn::Set(d, x[k]), hn::Load(d, column), sums[g]);
      }
    }
    for (int g = 0; g < kGroups; ++g) {
      hn::StoreU(begin == 0 ? sums[g] : hn::Add(hn::LoadU(d, y + 4 * g), sums[g]), d, y + 4 * g);
    }
  }
}
#endif

// One row by kPanels panels of 16 bfloat16 columns: the panels' chains hide each other's latency.
template <int kPanels>
void BF16Columns(const Product& p, int64_t n, int64_t columns) {
  using D = hn::CappedTag<float, kBF16Panel>;
  const D d;
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  constexpr int kVectors = static_cast<int>(kBF16Panel / static_cast<int64_t>(hn::MaxLanes(D())));
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  constexpr int64_t kPrefetch = 2048;  // Elements.
  HWY_ALIGN float row[kPanels * kBF16Panel];
  for (int64_t begin = 0; begin < p.in; begin += kProductDepth) {
    hn::Vec<D> sums[kPanels][kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kPanels; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sums[i][v] = hn::Zero(d);
    }
    for (int64_t k = begin; k < std::min(p.in, begin + kProductDepth); ++k) {
      const auto x = hn::Set(d, p.x[k]);
#pragma GCC unroll 4
      for (int i = 0; i < kPanels; ++i) {
        const uint16_t* w = BF16Column(p, n + i * kBF16Panel, k);
        __builtin_prefetch(w + kPrefetch, 0, 2);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
          const auto wide = hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, w + v * lanes)));
          sums[i][v] = hn::MulAdd(x, hn::BitCast(d, wide), sums[i][v]);
        }
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kPanels; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        float* to = row + i * kBF16Panel + v * lanes;
        hn::Store(begin == 0 ? sums[i][v] : hn::Add(hn::Load(d, to), sums[i][v]), d, to);
      }
    }
  }
  std::copy_n(row, columns, p.y + n);
}

void BF16Row(const Product& p, int64_t n_begin, int64_t n_end) {
  constexpr int kPanels = 4;
  int64_t n = n_begin;
  for (; n + kPanels * kBF16Panel <= n_end; n += kPanels * kBF16Panel) {
    BF16Columns<kPanels>(p, n, kPanels * kBF16Panel);
  }
  for (; n < n_end; n += kBF16Panel) BF16Columns<1>(p, n, std::min(kBF16Panel, n_end - n));
}

void OneRow(const Product& p, int64_t n_begin, int64_t n_end) {
  if (p.w_panels != nullptr) return BF16Row(p, n_begin, n_end);
  int64_t n = n_begin;
#if HWY_TARGET != HWY_SCALAR
  for (; n + 16 <= n_end; n += 16) SixteenColumns(p.x, p.w + n * p.w_stride, p.w_stride, p.in, p.y + n);
#endif
  for (; n < n_end; ++n) p.y[n] = OneColumn(p.x, p.w + n * p.w_stride, p.in);
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(GetTile);
HWY_EXPORT(PackPanels);
HWY_EXPORT(Multiply);
HWY_EXPORT(OneRow);

ProductTile GetProductTile() {
  ProductTile tile;
  HWY_DYNAMIC_DISPATCH(GetTile)(&tile);
  return tile;
}

void PackProductPanels(const Product& product, int64_t n_begin, int64_t n_end, float* packed) {
  const int64_t width = GetProductTile().panel_columns;
  const int64_t padded_columns = (n_end - n_begin + width - 1) / width * width;
  for (int64_t k = 0; k < product.in; k += kProductDepth) {
    const int64_t depth = std::min(kProductDepth, product.in - k);
    HWY_DYNAMIC_DISPATCH(PackPanels)(product, n_begin, n_end, k, depth, packed + k * padded_columns);
  }
}

void MultiplyPacked(const Product& product, int64_t r_begin, int64_t r_end, int64_t n_begin, int64_t n_end,
                    const float* packed) {
  HWY_DYNAMIC_DISPATCH(Multiply)(product, r_begin, r_end, n_begin, n_end, packed);
}

void MultiplyOneRow(const Product& product, int64_t n_begin, int64_t n_end) {
  HWY_DYNAMIC_DISPATCH(OneRow)(product, n_begin, n_end);
}

}  // namespace sluice
#endif  // HWY_ONCE
