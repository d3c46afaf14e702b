// Tiles of products with quantised matrices: a few rows of x by one or two panels of w, for each target.
//   AVX-512 VNNI  four products of an unsigned and a signed code in one instruction
//   AVX2          the same in two, 16 bits wide in between
//   NEON          four products of signed codes in one instruction, where the processor has it
//   every other   plain loops
// Included once per Highway target, after simd_math.h.
#if defined(SLUICE_BACKEND_CPU_QUANTIZED_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SLUICE_BACKEND_CPU_QUANTIZED_TILES_INL_H_
#undef SLUICE_BACKEND_CPU_QUANTIZED_TILES_INL_H_
#else
#define SLUICE_BACKEND_CPU_QUANTIZED_TILES_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstring>

#include "hwy/highway.h"
#include "ops/quantized_matrix.h"
#include "tensor/float16.h"
#if HWY_ARCH_ARM_A64 && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

constexpr int64_t kBlock = QuantizedMatrix::kBlock;
constexpr int64_t kPanel = QuantizedMatrix::kPanel;
constexpr int64_t kStep = QuantizedMatrix::kStep;
constexpr int64_t kSteps = kBlock / kStep;      // Of a block.
constexpr int64_t kStepBytes = kPanel * kStep;  // One step along `in` of a panel: in kQ4, two.

// Bytes of a panel per weight of a row.
template <WeightFormat kFormat>
constexpr int64_t BytesOf(int64_t in) {
  return in * kPanel / (kFormat == WeightFormat::kQ4 ? 2 : 1);
}

// Where a tile's operands are.
struct TileArgs {
  const int8_t* x_codes;     // Of the tile's first row; rows `in` apart.
  const float* x_scales;     // Rows in / 32 apart, and so the next two.
  const int32_t* x_offsets;  // As of QuantizedRows.
  const float* x_sums;
  const uint8_t* w_codes;  // Of the first panel.
  const uint16_t* w_scales;
  const uint16_t* w_mins;  // kQ4 alone.
  float* y;
  int64_t y_stride;
  int64_t in;
  int64_t columns;  // That are wanted: at most those of the tile's panels.
};
using TileFunction = void (*)(const TileArgs&);

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

// Step s of a block, codes unsigned as the instruction wants one operand to be.
template <WeightFormat kFormat>
SLUICE_TARGET_VNNI HWY_INLINE __m512i PanelStep(const uint8_t* block, int64_t s) {
  if constexpr (kFormat == WeightFormat::kQ8) return _mm512_loadu_si512(block + s * kStepBytes);
  const __m512i pair = _mm512_loadu_si512(block + s / 2 * kStepBytes);
  return _mm512_and_si512(s % 2 == 0 ? pair : _mm512_srli_epi16(pair, 4), _mm512_set1_epi8(15));
}

SLUICE_TARGET_VNNI HWY_INLINE __m512 PanelHalves(const uint16_t* halves) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
}

SLUICE_TARGET_VNNI HWY_INLINE void StorePanel(__m512 v, float* y, int64_t columns) {
  if (columns >= kPanel) return _mm512_storeu_ps(y, v);
  _mm512_mask_storeu_ps(y, static_cast<__mmask16>((1u << columns) - 1), v);
}

template <WeightFormat kFormat, int kRows, int kPanels>
SLUICE_TARGET_VNNI void VnniTile(const TileArgs& args) {
  constexpr bool kHasMins = kFormat == WeightFormat::kQ4;
  const int64_t in = args.in;
  const int64_t blocks = in / kBlock;
  __m512 acc[kRows][kPanels];
  HWY_UNROLL(6)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(2)
    for (int p = 0; p < kPanels; ++p) acc[r][p] = _mm512_setzero_ps();
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t* w = args.w_codes + b * BytesOf<kFormat>(kBlock);
    const int8_t* x = args.x_codes + b * kBlock;
    __m512i dot[kRows][kPanels];
    HWY_UNROLL(6)
    for (int r = 0; r < kRows; ++r) {
      const __m512i offset =
          kHasMins ? _mm512_setzero_si512() : _mm512_set1_epi32(args.x_offsets[r * blocks + b]);
      HWY_UNROLL(2)
      for (int p = 0; p < kPanels; ++p) dot[r][p] = offset;
    }
    HWY_UNROLL(8)
    for (int64_t s = 0; s < kSteps; ++s) {
      __m512i step[kPanels];
      HWY_UNROLL(2)
      for (int p = 0; p < kPanels; ++p) step[p] = PanelStep<kFormat>(w + p * BytesOf<kFormat>(in), s);
      HWY_UNROLL(6)
      for (int r = 0; r < kRows; ++r) {
        const __m512i codes = BroadcastStep(x + r * in + s * kStep);
        HWY_UNROLL(2)
        for (int p = 0; p < kPanels; ++p) dot[r][p] = _mm512_dpbusd_epi32(dot[r][p], step[p], codes);
      }
    }
    HWY_UNROLL(2)
    for (int p = 0; p < kPanels; ++p) {
      const int64_t halves = (p * blocks + b) * kPanel;
      const __m512 w_scale = PanelHalves(args.w_scales + halves);
      __m512 w_min;
      if constexpr (kHasMins) w_min = PanelHalves(args.w_mins + halves);
      HWY_UNROLL(6)
      for (int r = 0; r < kRows; ++r) {
        const __m512 scale = _mm512_mul_ps(w_scale, _mm512_set1_ps(args.x_scales[r * blocks + b]));
        acc[r][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r][p]), scale, acc[r][p]);
        if constexpr (kHasMins) {
          acc[r][p] = _mm512_fmadd_ps(w_min, _mm512_set1_ps(args.x_sums[r * blocks + b]), acc[r][p]);
        }
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
// kPrefetchBytes later is fetched meanwhile, since the hardware stops at the end of a page. GB/s from memory
// in kQ8, medians of seven runs in turns, without, with 2,048 and with 4,096 bytes: in 256, out 4,096 one
// thread 16.6, 15.6, 18.5 and two 23.0, 23.7, 25.5; in 768, out 2,048 one 16.2, 17.0, 17.6 and
// two 23.4, 22.7, 25.1. Single runs overlap.
template <WeightFormat kFormat>
SLUICE_TARGET_VNNI void VnniRow(const TileArgs& args) {
  constexpr bool kHasMins = kFormat == WeightFormat::kQ4;
  constexpr int64_t kPrefetchBytes = 4096;
  const int64_t blocks = args.in / kBlock;
  __m512 acc = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t* w = args.w_codes + b * BytesOf<kFormat>(kBlock);
    const int8_t* x = args.x_codes + b * kBlock;
    HWY_UNROLL(8)
    for (int64_t line = 0; line < BytesOf<kFormat>(kBlock); line += 64) {
      __builtin_prefetch(w + line + kPrefetchBytes, 0, 2);
    }
    __m512i dot[4];
    dot[0] = kHasMins ? _mm512_setzero_si512() : _mm512_set1_epi32(args.x_offsets[b]);
    HWY_UNROLL(3)
    for (int c = 1; c < 4; ++c) dot[c] = _mm512_setzero_si512();
    HWY_UNROLL(8)
    for (int64_t s = 0; s < kSteps; ++s) {
      dot[s % 4] = _mm512_dpbusd_epi32(dot[s % 4], PanelStep<kFormat>(w, s), BroadcastStep(x + s * kStep));
    }
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(dot[0], dot[1]), _mm512_add_epi32(dot[2], dot[3]));
    const __m512 scale =
        _mm512_mul_ps(PanelHalves(args.w_scales + b * kPanel), _mm512_set1_ps(args.x_scales[b]));
    acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, acc);
    if constexpr (kHasMins) {
      acc = _mm512_fmadd_ps(PanelHalves(args.w_mins + b * kPanel), _mm512_set1_ps(args.x_sums[b]), acc);
    }
  }
  StorePanel(acc, args.y, args.columns);
}

#endif  // HWY_AVX3

#if HWY_TARGET == HWY_NEON

// Highway's target lacks the dot products; functions with this attribute have them.
#define SLUICE_TARGET_DOT __attribute__((target("arch=armv8.2-a+dotprod+crypto")))

inline bool HasDot() {
#if defined(__ARM_FEATURE_DOTPROD)
  return true;
#elif defined(__linux__)
  static const bool has_dot = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  return has_dot;
#else
  return false;
#endif
}

// Four rows of a panel at step s of a block.
template <WeightFormat kFormat>
SLUICE_TARGET_DOT HWY_INLINE int8x16_t QuadStep(const uint8_t* block, int64_t s, int64_t quad) {
  constexpr bool kIsQ4 = kFormat == WeightFormat::kQ4;
  const uint8x16_t bytes = vld1q_u8(block + (kIsQ4 ? s / 2 : s) * kStepBytes + quad * 16);
  if constexpr (!kIsQ4) return vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(QuantizedMatrix::kOffset)));
  return vreinterpretq_s8_u8(s % 2 == 0 ? vandq_u8(bytes, vdupq_n_u8(15)) : vshrq_n_u8(bytes, 4));
}

SLUICE_TARGET_DOT HWY_INLINE float32x4_t QuadHalves(const uint16_t* halves, int64_t quad) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves + quad * 4)));
}

template <WeightFormat kFormat, int kRows>
SLUICE_TARGET_DOT void DotTile(const TileArgs& args) {
  constexpr int kQuads = kPanel / 4;
  constexpr bool kHasMins = kFormat == WeightFormat::kQ4;
  const int64_t in = args.in;
  const int64_t blocks = in / kBlock;
  float32x4_t acc[kRows][kQuads];
  for (int r = 0; r < kRows; ++r) {
    for (int q = 0; q < kQuads; ++q) acc[r][q] = vdupq_n_f32(0);
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t* w = args.w_codes + b * BytesOf<kFormat>(kBlock);
    const int8_t* x = args.x_codes + b * kBlock;
    int32x4_t dot[kRows][kQuads];
    for (int r = 0; r < kRows; ++r) {
      for (int q = 0; q < kQuads; ++q) dot[r][q] = vdupq_n_s32(0);
    }
    HWY_UNROLL(8)
    for (int64_t s = 0; s < kSteps; ++s) {
      int8x16_t step[kQuads];
      for (int q = 0; q < kQuads; ++q) step[q] = QuadStep<kFormat>(w, s, q);
      for (int r = 0; r < kRows; ++r) {
        int32_t four;
        std::memcpy(&four, x + r * in + s * kStep, sizeof(four));
        const int8x16_t codes = vreinterpretq_s8_s32(vdupq_n_s32(four));
        for (int q = 0; q < kQuads; ++q) dot[r][q] = vdotq_s32(dot[r][q], step[q], codes);
      }
    }
    for (int q = 0; q < kQuads; ++q) {
      const float32x4_t w_scale = QuadHalves(args.w_scales + b * kPanel, q);
      for (int r = 0; r < kRows; ++r) {
        const float32x4_t scale = vmulq_n_f32(w_scale, args.x_scales[r * blocks + b]);
        acc[r][q] = vfmaq_f32(acc[r][q], vcvtq_f32_s32(dot[r][q]), scale);
        if constexpr (kHasMins) {
          const float32x4_t w_min = QuadHalves(args.w_mins + b * kPanel, q);
          acc[r][q] = vfmaq_n_f32(acc[r][q], w_min, args.x_sums[r * blocks + b]);
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float panel[kPanel];
    for (int q = 0; q < kQuads; ++q) vst1q_f32(panel + 4 * q, acc[r][q]);
    std::copy_n(panel, args.columns, args.y + r * args.y_stride);
  }
}

#endif  // HWY_NEON

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3

HWY_INLINE __m256i BroadcastStep256(const int8_t* codes) {
  int32_t step;
  std::memcpy(&step, codes, sizeof(step));
  return _mm256_set1_epi32(step);
}

// The dot products of one block for kRows rows of x. |w| times x with the sign of w: a pair of products of
// codes within ±127 is at most 32258, so the 16 bits in between never saturate. Of the peak of these
// instructions (Zen 4, one thread, in 256 and 768) three rows reach 0.60 and 0.63; four rows, and |x| times w
// with the sign of x, 0.57 and 0.59.
template <int kRows>
HWY_INLINE void DotQ8(const uint8_t* w, const int8_t* x, int64_t in, __m256i (&dot)[kRows][2]) {
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i offset = _mm256_set1_epi8(static_cast<char>(QuantizedMatrix::kOffset));
  for (int64_t s = 0; s < kSteps; ++s) {
    const auto* step = reinterpret_cast<const __m256i*>(w + s * kStepBytes);
    __m256i half[2], magnitude[2];
    HWY_UNROLL(2)
    for (int h = 0; h < 2; ++h) {
      half[h] = _mm256_xor_si256(_mm256_loadu_si256(step + h), offset);
      magnitude[h] = _mm256_abs_epi8(half[h]);
    }
    HWY_UNROLL(6)
    for (int r = 0; r < kRows; ++r) {
      const __m256i codes = BroadcastStep256(x + r * in + s * kStep);
      HWY_UNROLL(2)
      for (int h = 0; h < 2; ++h) {
        const __m256i pairs = _mm256_maddubs_epi16(magnitude[h], _mm256_sign_epi8(codes, half[h]));
        dot[r][h] = _mm256_add_epi32(dot[r][h], _mm256_madd_epi16(pairs, ones));
      }
    }
  }
}

// The same for kQ4: all eight pairs of a block, 8 · 2 · 15 · 127 at most, fit into 16 bits.
template <int kRows>
HWY_INLINE void DotQ4(const uint8_t* w, const int8_t* x, int64_t in, __m256i (&dot)[kRows][2]) {
  const __m256i low_bits = _mm256_set1_epi8(15);
  for (int64_t s = 0; s < kSteps; s += 2) {
    const auto* step = reinterpret_cast<const __m256i*>(w + s / 2 * kStepBytes);
    HWY_UNROLL(2)
    for (int h = 0; h < 2; ++h) {
      const __m256i pair = _mm256_loadu_si256(step + h);
      const __m256i low = _mm256_and_si256(pair, low_bits);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(pair, 4), low_bits);
      HWY_UNROLL(6)
      for (int r = 0; r < kRows; ++r) {
        const int8_t* codes = x + r * in + s * kStep;
        dot[r][h] = _mm256_add_epi16(dot[r][h], _mm256_maddubs_epi16(low, BroadcastStep256(codes)));
        dot[r][h] = _mm256_add_epi16(dot[r][h], _mm256_maddubs_epi16(high, BroadcastStep256(codes + kStep)));
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int h = 0; h < 2; ++h) dot[r][h] = _mm256_madd_epi16(dot[r][h], _mm256_set1_epi16(1));
  }
}

HWY_INLINE __m256 EightHalves(const uint16_t* halves, int h) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves) + h));
}

// kRows rows by one panel.
template <WeightFormat kFormat, int kRows>
void NarrowTile(const TileArgs& args) {
  constexpr bool kHasMins = kFormat == WeightFormat::kQ4;
  const int64_t in = args.in;
  const int64_t blocks = in / kBlock;
  __m256 acc[kRows][2];
  HWY_UNROLL(6)
  for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t* w = args.w_codes + b * BytesOf<kFormat>(kBlock);
    const int8_t* x = args.x_codes + b * kBlock;
    __m256i dot[kRows][2];
    HWY_UNROLL(6)
    for (int r = 0; r < kRows; ++r) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
    if constexpr (kHasMins) {
      DotQ4<kRows>(w, x, in, dot);
    } else {
      DotQ8<kRows>(w, x, in, dot);
    }
    HWY_UNROLL(2)
    for (int h = 0; h < 2; ++h) {
      const __m256 w_scale = EightHalves(args.w_scales + b * kPanel, h);
      __m256 w_min;
      if constexpr (kHasMins) w_min = EightHalves(args.w_mins + b * kPanel, h);
      HWY_UNROLL(6)
      for (int r = 0; r < kRows; ++r) {
        const __m256 scale = _mm256_mul_ps(w_scale, _mm256_set1_ps(args.x_scales[r * blocks + b]));
        acc[r][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r][h]), scale, acc[r][h]);
        if constexpr (kHasMins) {
          acc[r][h] = _mm256_fmadd_ps(w_min, _mm256_set1_ps(args.x_sums[r * blocks + b]), acc[r][h]);
        }
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
template <WeightFormat kFormat>
constexpr int kNarrowRows = kFormat == WeightFormat::kQ4 ? 4 : 3;

#else

// One row by one panel, for every other target.
template <WeightFormat kFormat, int kRows>
void NarrowTile(const TileArgs& args) {
  static_assert(kRows == 1);
  constexpr bool kIsQ4 = kFormat == WeightFormat::kQ4;
  const int64_t blocks = args.in / kBlock;
  float acc[kPanel] = {};
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t* w = args.w_codes + b * BytesOf<kFormat>(kBlock);
    const int8_t* x = args.x_codes + b * kBlock;
    int32_t dot[kPanel] = {};
    for (int64_t s = 0; s < kSteps; ++s) {
      const uint8_t* step = w + (kIsQ4 ? s / 2 : s) * kStepBytes;
      for (int64_t n = 0; n < kPanel; ++n) {
        for (int64_t i = 0; i < kStep; ++i) {
          const int byte = step[n * kStep + i];
          const int code = !kIsQ4 ? byte - QuantizedMatrix::kOffset : s % 2 == 0 ? byte & 15 : byte >> 4;
          dot[n] += code * x[s * kStep + i];
        }
      }
    }
    for (int64_t n = 0; n < kPanel; ++n) {
      const float scale = FloatFromF16(args.w_scales[b * kPanel + n]) * args.x_scales[b];
      acc[n] = std::fma(static_cast<float>(dot[n]), scale, acc[n]);
      if constexpr (kIsQ4)
        acc[n] = std::fma(FloatFromF16(args.w_mins[b * kPanel + n]), args.x_sums[b], acc[n]);
    }
  }
  std::copy_n(acc, args.columns, args.y);
}
template <WeightFormat>
constexpr int kNarrowRows = 1;

#endif

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
