// Three kernels: AVX-512 VNNI (four products of an unsigned and a signed code in one instruction), AVX2 (the
// same in two, 16 bits wide in between), and plain loops. Tiles are a few rows of x by one or two panels.
#include "backend/cpu/quantized_kernel.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "ops/quantized_numerics.h"
#include "tensor/float16.h"

// The order of these matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/quantized_kernel.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
// clang-format on

#ifndef SLUICE_BACKEND_CPU_QUANTIZED_KERNEL_ONCE
#define SLUICE_BACKEND_CPU_QUANTIZED_KERNEL_ONCE
namespace sluice {
constexpr int64_t kBlock = QuantizedMatrix::kBlock;
constexpr int64_t kPanel = QuantizedMatrix::kPanel;
constexpr int64_t kStep = QuantizedMatrix::kStep;
constexpr int64_t kStepBytes = kPanel * kStep;  // One step along `in` of a panel.
constexpr int64_t kSteps = kBlock / kStep;      // Of a block.
}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// QuantizeActivationBlock (ops/quantized_numerics.h), bit for bit, and the sum of the codes.
HWY_INLINE float QuantizeBlock(const float* HWY_RESTRICT x, int8_t* HWY_RESTRICT codes,
                               int32_t* HWY_RESTRICT code_sum) {
#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
  const float scale = QuantizeActivationBlock(x, codes);
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
    *code_sum = 0;
    return QuantizeActivationBlock(x, codes);
  }
  const auto inverse = hn::Set(d, kQuantizedMax / largest);
  for (int64_t i = 0; i < kBlock; i += lanes) {
    hn::StoreU(hn::DemoteTo(db, hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), inverse))), db, codes + i);
  }
  const float scale = largest / kQuantizedMax;
#endif
  int32_t sum = 0;
  for (int64_t i = 0; i < kBlock; ++i) sum += codes[i];
  *code_sum = sum;
  return scale;
}

void QuantizeRows(const float* x, int64_t x_stride, int64_t begin, int64_t end, const QuantizedRows& rows) {
  const int64_t blocks = rows.in / kBlock;
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t b = 0; b < blocks; ++b) {
      rows.scales[r * blocks + b] =
          QuantizeBlock(x + r * x_stride + b * kBlock, rows.codes + r * rows.in + b * kBlock,
                        rows.code_sums + r * blocks + b);
    }
  }
}

// Where a tile's operands are.
struct TileArgs {
  const int8_t* x_codes;  // Of the tile's first row; rows `in` apart.
  const float* x_scales;  // Rows in / 32 apart, and so the sums.
  const int32_t* x_sums;
  const int8_t* w_codes;  // Of the first panel.
  const uint16_t* w_scales;
  float* y;
  int64_t y_stride;
  int64_t in;
  int64_t columns;  // That are wanted: at most those of the tile's panels.
};

#if HWY_TARGET == HWY_AVX3

// Highway's target for AVX-512 has no dot products that accumulate; functions with this attribute have them.
#define SLUICE_TARGET_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")))

inline bool HasVnni() {
  static const bool has_vnni = __builtin_cpu_supports("avx512vnni") > 0;
  return has_vnni;
}

SLUICE_TARGET_VNNI HWY_INLINE __m512i BroadcastStep(const int8_t* codes) {
  int32_t step;
  std::memcpy(&step, codes, sizeof(step));
  return _mm512_set1_epi32(step);
}

// Codes of w + 128, unsigned as the instruction wants one operand to be: Σ (w + 128) x = Σ w x + 128 Σ x.
SLUICE_TARGET_VNNI HWY_INLINE __m512i UnsignedStep(const int8_t* codes) {
  return _mm512_xor_si512(_mm512_loadu_si512(codes), _mm512_set1_epi8(static_cast<char>(0x80)));
}

SLUICE_TARGET_VNNI HWY_INLINE __m512 PanelScale(const uint16_t* scales) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
}

SLUICE_TARGET_VNNI HWY_INLINE void StorePanel(__m512 v, float* y, int64_t columns) {
  if (columns >= kPanel) return _mm512_storeu_ps(y, v);
  _mm512_mask_storeu_ps(y, static_cast<__mmask16>((1u << columns) - 1), v);
}

template <int kRows, int kPanels>
SLUICE_TARGET_VNNI void VnniTile(const TileArgs& args) {
  const int64_t in = args.in;
  const int64_t blocks = in / kBlock;
  __m512 acc[kRows][kPanels];
  HWY_UNROLL(6)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(2)
    for (int p = 0; p < kPanels; ++p) acc[r][p] = _mm512_setzero_ps();
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const int8_t* w = args.w_codes + b * kSteps * kStepBytes;
    const int8_t* x = args.x_codes + b * kBlock;
    __m512i dot[kRows][kPanels];
    HWY_UNROLL(6)
    for (int r = 0; r < kRows; ++r) {
      HWY_UNROLL(2)
      for (int p = 0; p < kPanels; ++p) dot[r][p] = _mm512_set1_epi32(-128 * args.x_sums[r * blocks + b]);
    }
    HWY_UNROLL(8)
    for (int64_t s = 0; s < kSteps; ++s) {
      __m512i step[kPanels];
      HWY_UNROLL(2)
      for (int p = 0; p < kPanels; ++p) step[p] = UnsignedStep(w + p * in * kPanel + s * kStepBytes);
      HWY_UNROLL(6)
      for (int r = 0; r < kRows; ++r) {
        const __m512i codes = BroadcastStep(x + r * in + s * kStep);
        HWY_UNROLL(2)
        for (int p = 0; p < kPanels; ++p) dot[r][p] = _mm512_dpbusd_epi32(dot[r][p], step[p], codes);
      }
    }
    HWY_UNROLL(2)
    for (int p = 0; p < kPanels; ++p) {
      const __m512 w_scale = PanelScale(args.w_scales + (p * blocks + b) * kPanel);
      HWY_UNROLL(6)
      for (int r = 0; r < kRows; ++r) {
        const __m512 scale = _mm512_mul_ps(w_scale, _mm512_set1_ps(args.x_scales[r * blocks + b]));
        acc[r][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r][p]), scale, acc[r][p]);
      }
    }
  }
  HWY_UNROLL(6)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(2)
    for (int p = 0; p < kPanels; ++p) {
      StorePanel(acc[r][p], args.y + r * args.y_stride + p * kPanel, args.columns - p * kPanel);
    }
  }
}

// One row by one panel: four chains hide the instruction's latency, and the panel is one stream. What comes
// kPrefetchBytes later is fetched meanwhile, since the hardware stops at the end of a page. GB/s from memory,
// medians of seven runs in turns, without, with 2,048 and with 4,096 bytes: in 256, out 4,096 one
// thread 16.6, 15.6, 18.5 and two 23.0, 23.7, 25.5; in 768, out 2,048 one 16.2, 17.0, 17.6 and
// two 23.4, 22.7, 25.1. Single runs overlap.
SLUICE_TARGET_VNNI void VnniRow(const TileArgs& args) {
  constexpr int64_t kPrefetchBytes = 4096;
  const int64_t blocks = args.in / kBlock;
  __m512 acc = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b) {
    const int8_t* w = args.w_codes + b * kSteps * kStepBytes;
    const int8_t* x = args.x_codes + b * kBlock;
    __m512i dot[4];
    dot[0] = _mm512_set1_epi32(-128 * args.x_sums[b]);
    HWY_UNROLL(3)
    for (int c = 1; c < 4; ++c) dot[c] = _mm512_setzero_si512();
    HWY_UNROLL(8)
    for (int64_t s = 0; s < kSteps; ++s) {
      __builtin_prefetch(w + s * kStepBytes + kPrefetchBytes, 0, 2);
      dot[s % 4] =
          _mm512_dpbusd_epi32(dot[s % 4], UnsignedStep(w + s * kStepBytes), BroadcastStep(x + s * kStep));
    }
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(dot[0], dot[1]), _mm512_add_epi32(dot[2], dot[3]));
    const __m512 scale =
        _mm512_mul_ps(PanelScale(args.w_scales + b * kPanel), _mm512_set1_ps(args.x_scales[b]));
    acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, acc);
  }
  StorePanel(acc, args.y, args.columns);
}

#endif  // HWY_AVX3

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3

// kRows rows by one panel. |x| times w with the sign of x: a pair of products of codes within ±127 is at most
// 32258, so the 16 bits in between never saturate.
template <int kRows>
void NarrowTile(const TileArgs& args) {
  const int64_t in = args.in;
  const int64_t blocks = in / kBlock;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256 acc[kRows][2];
  HWY_UNROLL(6)
  for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b) {
    const int8_t* w = args.w_codes + b * kSteps * kStepBytes;
    const int8_t* x = args.x_codes + b * kBlock;
    __m256i dot[kRows][2];
    HWY_UNROLL(6)
    for (int r = 0; r < kRows; ++r) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
    for (int64_t s = 0; s < kSteps; ++s) {
      const auto* step = reinterpret_cast<const __m256i*>(w + s * kStepBytes);
      const __m256i half[2] = {_mm256_loadu_si256(step), _mm256_loadu_si256(step + 1)};
      HWY_UNROLL(6)
      for (int r = 0; r < kRows; ++r) {
        int32_t four;
        std::memcpy(&four, x + r * in + s * kStep, sizeof(four));
        const __m256i codes = _mm256_set1_epi32(four);
        const __m256i magnitude = _mm256_abs_epi8(codes);
        HWY_UNROLL(2)
        for (int h = 0; h < 2; ++h) {
          const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(half[h], codes));
          dot[r][h] = _mm256_add_epi32(dot[r][h], _mm256_madd_epi16(pairs, ones));
        }
      }
    }
    HWY_UNROLL(2)
    for (int h = 0; h < 2; ++h) {
      const auto* scales = reinterpret_cast<const __m128i*>(args.w_scales + b * kPanel) + h;
      const __m256 w_scale = _mm256_cvtph_ps(_mm_loadu_si128(scales));
      HWY_UNROLL(6)
      for (int r = 0; r < kRows; ++r) {
        const __m256 scale = _mm256_mul_ps(w_scale, _mm256_set1_ps(args.x_scales[r * blocks + b]));
        acc[r][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r][h]), scale, acc[r][h]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float* y = args.y + r * args.y_stride;
    if (args.columns == kPanel) {
      _mm256_storeu_ps(y, acc[r][0]);
      _mm256_storeu_ps(y + 8, acc[r][1]);
      continue;
    }
    HWY_ALIGN float panel[kPanel];
    _mm256_store_ps(panel, acc[r][0]);
    _mm256_store_ps(panel + 8, acc[r][1]);
    std::copy_n(panel, args.columns, y);
  }
}
constexpr int kNarrowRows = 4;

#else

// One row by one panel, for every other target.
template <int kRows>
void NarrowTile(const TileArgs& args) {
  static_assert(kRows == 1);
  const int64_t blocks = args.in / kBlock;
  float acc[kPanel] = {};
  for (int64_t b = 0; b < blocks; ++b) {
    const int8_t* w = args.w_codes + b * kSteps * kStepBytes;
    const int8_t* x = args.x_codes + b * kBlock;
    int32_t dot[kPanel] = {};
    for (int64_t k = 0; k < kBlock; k += kStep, w += kStepBytes) {
      for (int64_t n = 0; n < kPanel; ++n) {
        for (int64_t i = 0; i < kStep; ++i) dot[n] += w[n * kStep + i] * x[k + i];
      }
    }
    for (int64_t n = 0; n < kPanel; ++n) {
      const float scale = FloatFromF16(args.w_scales[b * kPanel + n]) * args.x_scales[b];
      acc[n] = std::fma(static_cast<float>(dot[n]), scale, acc[n]);
    }
  }
  std::copy_n(acc, args.columns, args.y);
}
constexpr int kNarrowRows = 1;

#endif

using TileFunction = void (*)(const TileArgs&);

template <int... kIndex>
constexpr std::array<TileFunction, sizeof...(kIndex)> NarrowTiles(std::integer_sequence<int, kIndex...>) {
  return {&NarrowTile<kIndex + 1>...};
}
#if HWY_TARGET == HWY_AVX3
// 24 of 32 registers accumulate.
constexpr int kVnniRows = 6;
template <int kPanels, int... kIndex>
constexpr std::array<TileFunction, sizeof...(kIndex)> VnniTiles(std::integer_sequence<int, kIndex...>) {
  return {&VnniTile<kIndex + 1, kPanels>...};
}
#endif

// The tiles of this machine: tile[panels − 1][rows − 1].
struct Tiles {
  int64_t max_rows;
  int64_t max_panels;
  const TileFunction* one_panel;
  const TileFunction* two_panels;  // Null where max_panels is 1.
};

Tiles GetTiles() {
  static constexpr auto kNarrow = NarrowTiles(std::make_integer_sequence<int, kNarrowRows>());
#if HWY_TARGET == HWY_AVX3
  static constexpr auto kOne = [] {
    auto tiles = VnniTiles<1>(std::make_integer_sequence<int, kVnniRows>());
    tiles[0] = &VnniRow;
    return tiles;
  }();
  static constexpr auto kTwo = VnniTiles<2>(std::make_integer_sequence<int, kVnniRows>());
  if (HasVnni()) return {kVnniRows, 2, kOne.data(), kTwo.data()};
#endif
  return {kNarrowRows, 1, kNarrow.data(), nullptr};
}

void Multiply(const QuantizedProduct& p, int64_t r_begin, int64_t r_end, int64_t n_begin, int64_t n_end) {
  const Tiles tiles = GetTiles();
  const int64_t in = p.x.in;
  const int64_t blocks = in / kBlock;
  for (int64_t n = n_begin; n < n_end;) {
    // A row alone reads one panel after the other.
    const bool two = tiles.max_panels == 2 && n + kPanel < n_end && r_end - r_begin > 1;
    const TileFunction* by_rows = two ? tiles.two_panels : tiles.one_panel;
    const int64_t columns = std::min(n_end - n, two ? 2 * kPanel : kPanel);
    for (int64_t r = r_begin; r < r_end;) {
      const int64_t rows = std::min(tiles.max_rows, r_end - r);
      by_rows[rows - 1]({p.x.codes + r * in, p.x.scales + r * blocks, p.x.code_sums + r * blocks,
                         p.w_codes + n * in, p.w_scales + n * blocks, p.y + r * p.y_stride + n, p.y_stride,
                         in, columns});
      r += rows;
    }
    n += columns;
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(QuantizeRows);
HWY_EXPORT(Multiply);

void QuantizeActivationRows(const float* x, int64_t x_stride, int64_t begin, int64_t end,
                            const QuantizedRows& rows) {
  HWY_DYNAMIC_DISPATCH(QuantizeRows)(x, x_stride, begin, end, rows);
}

void MultiplyQuantized(const QuantizedProduct& product, int64_t r_begin, int64_t r_end, int64_t n_begin,
                       int64_t n_end) {
  HWY_DYNAMIC_DISPATCH(Multiply)(product, r_begin, r_end, n_begin, n_end);
}

}  // namespace sluice
#endif  // HWY_ONCE
