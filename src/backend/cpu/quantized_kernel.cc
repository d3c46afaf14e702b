#include "backend/cpu/quantized_kernel.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include "ops/quantized_numerics.h"

// The order of these matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/quantized_kernel.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
#include "backend/cpu/quantized_tiles-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// QuantizeActivationBlock (ops/quantized_numerics.h), bit for bit, and the sum of the codes.
HWY_INLINE float QuantizeBlock(const float* HWY_RESTRICT x, int8_t* HWY_RESTRICT codes, int32_t* sum) {
#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
  const float scale = QuantizeActivationBlock(x, codes);
  *sum = std::accumulate(codes, codes + kBlock, 0);
  return scale;
#else
  const hn::CappedTag<float, 16> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<int8_t, decltype(d)> db;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto bits = hn::Zero(di);
  for (int64_t i = 0; i < kBlock; i += lanes) {
    bits = hn::Max(bits, hn::BitCast(di, hn::Abs(hn::LoadU(d, x + i))));
  }
  const float largest = hn::GetLane(hn::BitCast(d, hn::MaxOfLanes(di, bits)));
  if (!(largest >= kQuantizedSmallest) || std::isinf(largest)) {
    *sum = 0;
    return QuantizeActivationBlock(x, codes);
  }
  const auto inverse = hn::Set(d, kQuantizedMax / largest);
  auto sums = hn::Zero(di);
  for (int64_t i = 0; i < kBlock; i += lanes) {
    const auto rounded = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), inverse));
    sums = hn::Add(sums, rounded);
    hn::StoreU(hn::DemoteTo(db, rounded), db, codes + i);
  }
  *sum = hn::GetLane(hn::SumOfLanes(di, sums));
  return largest / kQuantizedMax;
#endif
}

void Quantize(const float* x, int64_t x_stride, const Rectangle& part, const QuantizedRows& rows) {
  const int64_t blocks = rows.in / kBlock;
  for (int64_t r = part.row_begin; r < part.row_end; ++r, x += x_stride) {
    for (int64_t b = part.column_begin / kBlock; b < part.column_end / kBlock; ++b) {
      int32_t sum;
      const float scale =
          QuantizeBlock(x + b * kBlock - part.column_begin, rows.codes + r * rows.in + b * kBlock, &sum);
      rows.scales[r * blocks + b] = scale;
      rows.offsets[r * blocks + b] = -QuantizedMatrix::kOffset * sum;
      rows.sums[r * blocks + b] = scale * static_cast<float>(sum);
    }
  }
}

template <WeightFormat kFormat, int... kIndex>
constexpr std::array<TileFunction, sizeof...(kIndex)> NarrowTiles(std::integer_sequence<int, kIndex...>) {
  return {&NarrowTile<kFormat, kIndex + 1>...};
}
#if HWY_TARGET == HWY_NEON
// 24 of 32 registers accumulate.
constexpr int kDotRows = 3;
template <WeightFormat kFormat, int... kIndex>
constexpr std::array<TileFunction, sizeof...(kIndex)> DotTiles(std::integer_sequence<int, kIndex...>) {
  return {&DotTile<kFormat, kIndex + 1>...};
}
#endif
#if HWY_TARGET == HWY_AVX3
// 24 of 32 registers accumulate.
constexpr int kVnniRows = 6;
template <WeightFormat kFormat, int kPanels, int... kIndex>
constexpr std::array<TileFunction, sizeof...(kIndex)> VnniTiles(std::integer_sequence<int, kIndex...>) {
  return {&VnniTile<kFormat, kIndex + 1, kPanels>...};
}
#endif

// The tiles of this machine: tile[panels − 1][rows − 1].
struct Tiles {
  int64_t max_rows;
  int64_t max_panels;
  const TileFunction* one_panel;
  const TileFunction* two_panels;  // Null where max_panels is 1.
};

template <WeightFormat kFormat>
Tiles GetTiles() {
  static constexpr auto kNarrow =
      NarrowTiles<kFormat>(std::make_integer_sequence<int, kNarrowRows<kFormat>>());
#if HWY_TARGET == HWY_NEON
  static constexpr auto kDot = DotTiles<kFormat>(std::make_integer_sequence<int, kDotRows>());
  if (HasDot()) return {kDotRows, 1, kDot.data(), nullptr};
#endif
#if HWY_TARGET == HWY_AVX3
  static constexpr auto kOne = [] {
    auto tiles = VnniTiles<kFormat, 1>(std::make_integer_sequence<int, kVnniRows>());
    tiles[0] = &VnniRow<kFormat>;
    return tiles;
  }();
  static constexpr auto kTwo = VnniTiles<kFormat, 2>(std::make_integer_sequence<int, kVnniRows>());
  if (HasVnni()) return {kVnniRows, 2, kOne.data(), kTwo.data()};
#endif
  return {kNarrowRows<kFormat>, 1, kNarrow.data(), nullptr};
}

void Multiply(const QuantizedRows& x, const QuantizedMatrix& w, int64_t expert, const Rectangle& part,
              float* y, int64_t y_stride) {
  const bool is_q4 = w.format == WeightFormat::kQ4;
  const Tiles tiles = is_q4 ? GetTiles<WeightFormat::kQ4>() : GetTiles<WeightFormat::kQ8>();
  const int64_t blocks = w.num_blocks();
  TileArgs args = {};
  args.y_stride = y_stride;
  args.in = w.in;
  for (int64_t n = part.column_begin; n < part.column_end; n += args.columns) {
    // A row alone reads one panel after the other.
    const bool two =
        tiles.max_panels == 2 && n + kPanel < part.column_end && part.row_end - part.row_begin > 1;
    const TileFunction* by_rows = two ? tiles.two_panels : tiles.one_panel;
    args.columns = std::min(part.column_end - n, two ? 2 * kPanel : kPanel);
    args.w_codes = w.PanelCodes(expert, n / kPanel);
    args.w_scales = w.PanelScales(expert, n / kPanel);
    args.w_mins = is_q4 ? w.PanelMins(expert, n / kPanel) : nullptr;
    for (int64_t r = part.row_begin; r < part.row_end; r += tiles.max_rows) {
      args.x_codes = x.codes + r * x.in;
      args.x_scales = x.scales + r * blocks;
      args.x_offsets = x.offsets + r * blocks;
      args.x_sums = x.sums + r * blocks;
      args.y = y + (r - part.row_begin) * y_stride + n - part.column_begin;
      by_rows[std::min(tiles.max_rows, part.row_end - r) - 1](args);
    }
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(Quantize);
HWY_EXPORT(Multiply);

void QuantizeActivations(const float* x, int64_t x_stride, const Rectangle& part, const QuantizedRows& rows) {
  HWY_DYNAMIC_DISPATCH(Quantize)(x, x_stride, part, rows);
}

void MultiplyQuantized(const QuantizedRows& x, const QuantizedMatrix& w, int64_t expert,
                       const Rectangle& part, float* y, int64_t y_stride) {
  HWY_DYNAMIC_DISPATCH(Multiply)(x, w, expert, part, y, y_stride);
}

}  // namespace sluice
#endif  // HWY_ONCE
