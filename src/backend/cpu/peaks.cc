#include "backend/cpu/peaks.h"

#include <atomic>

// The order of these matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/peaks.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#ifndef SLUICE_BACKEND_CPU_PEAKS_ONCE
#define SLUICE_BACKEND_CPU_PEAKS_ONCE
namespace sluice {
// Independent chains, so many that the next one never waits for the last one's result.
constexpr int kChains = 10;
// Where results go, or the compiler would drop the loops.
inline std::atomic<float> peak_sink;
}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

int64_t FloatPeak(int64_t steps) {
  const hn::ScalableTag<float> d;
  hn::Vec<decltype(d)> chains[kChains];
  HWY_UNROLL(10)
  for (int c = 0; c < kChains; ++c) chains[c] = hn::Set(d, static_cast<float>(c));
  const auto factor = hn::Set(d, 0.999f);
  for (int64_t i = 0; i < steps; ++i) {
    HWY_UNROLL(10)
    for (int c = 0; c < kChains; ++c) chains[c] = hn::MulAdd(chains[c], factor, factor);
  }
  HWY_UNROLL(10)
  for (int c = 1; c < kChains; ++c) chains[0] = hn::Add(chains[0], chains[c]);
  peak_sink.store(hn::GetLane(chains[0]), std::memory_order_relaxed);
  return 2 * kChains * static_cast<int64_t>(hn::Lanes(d)) * steps;
}

#if HWY_TARGET == HWY_AVX3

__attribute__((target("avx512f,avx512bf16"))) int64_t PairPeak(int64_t steps) {
  __m512 chains[kChains];
  HWY_UNROLL(10)
  for (int c = 0; c < kChains; ++c) chains[c] = _mm512_set1_ps(static_cast<float>(c));
  const auto factor = (__m512bh)_mm512_set1_epi32(0x3f7f3f7f);
  for (int64_t i = 0; i < steps; ++i) {
    HWY_UNROLL(10)
    for (int c = 0; c < kChains; ++c) chains[c] = _mm512_dpbf16_ps(chains[c], factor, factor);
  }
  HWY_UNROLL(10)
  for (int c = 1; c < kChains; ++c) chains[0] = _mm512_add_ps(chains[0], chains[c]);
  peak_sink.store(_mm512_cvtss_f32(chains[0]), std::memory_order_relaxed);
  return 2 * kChains * 32 * steps;
}

__attribute__((target("avx512f,avx512vnni"))) int64_t Int8PeakVnni(int64_t steps) {
  __m512i chains[kChains];
  HWY_UNROLL(10)
  for (int c = 0; c < kChains; ++c) chains[c] = _mm512_set1_epi32(c);
  const __m512i factor = _mm512_set1_epi32(static_cast<int>(steps));
  for (int64_t i = 0; i < steps; ++i) {
    HWY_UNROLL(10)
    for (int c = 0; c < kChains; ++c) chains[c] = _mm512_dpbusd_epi32(chains[c], factor, factor);
  }
  HWY_UNROLL(10)
  for (int c = 1; c < kChains; ++c) chains[0] = _mm512_add_epi32(chains[0], chains[c]);
  peak_sink.store(static_cast<float>(_mm512_cvtsi512_si32(chains[0])), std::memory_order_relaxed);
  return 2 * kChains * 64 * steps;
}

#endif
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2

// Without VNNI the product of four codes is two instructions, 16 bits wide in between, and a sum.
int64_t Int8PeakAvx2(int64_t steps) {
  __m256i chains[kChains];
  HWY_UNROLL(10)
  for (int c = 0; c < kChains; ++c) chains[c] = _mm256_set1_epi32(c);
  const __m256i factor = _mm256_set1_epi32(static_cast<int>(steps) & 0x3f3f3f3f);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t i = 0; i < steps; ++i) {
    HWY_UNROLL(10)
    for (int c = 0; c < kChains; ++c) {
      const __m256i pairs = _mm256_maddubs_epi16(factor, chains[c]);
      chains[c] = _mm256_add_epi32(chains[c], _mm256_madd_epi16(pairs, ones));
    }
  }
  HWY_UNROLL(10)
  for (int c = 1; c < kChains; ++c) chains[0] = _mm256_add_epi32(chains[0], chains[c]);
  peak_sink.store(static_cast<float>(_mm256_extract_epi32(chains[0], 0)), std::memory_order_relaxed);
  return 2 * kChains * 32 * steps;
}

#endif

int64_t BFloat16Peak(int64_t steps) {
#if HWY_TARGET == HWY_AVX3
  if (__builtin_cpu_supports("avx512bf16") > 0) return PairPeak(steps);
#endif
  return FloatPeak(steps);
}

int64_t Int8Peak(int64_t steps) {
#if HWY_TARGET == HWY_AVX3
  if (__builtin_cpu_supports("avx512vnni") > 0) return Int8PeakVnni(steps);
#endif
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  return Int8PeakAvx2(steps);
#else
  // Whatever the compiler makes of it, as in the kernels of these targets.
  constexpr int kCodes = 64;
  int8_t codes[kCodes];
  int32_t sums[kCodes] = {};
  for (int j = 0; j < kCodes; ++j) codes[j] = static_cast<int8_t>(steps + j);
  for (int64_t i = 0; i < steps; ++i) {
    for (int j = 0; j < kCodes; ++j) sums[j] += codes[j] * static_cast<int8_t>(i);
  }
  int64_t sum = 0;
  for (int j = 0; j < kCodes; ++j) sum += sums[j];
  peak_sink.store(static_cast<float>(sum), std::memory_order_relaxed);
  return 2 * kCodes * steps;
#endif
}

uint64_t SumWords(const uint64_t* HWY_RESTRICT words, int64_t count) {
  const hn::ScalableTag<uint64_t> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  constexpr int kParts = 4;
  hn::Vec<decltype(d)> sums[kParts];
  HWY_UNROLL(4)
  for (int p = 0; p < kParts; ++p) sums[p] = hn::Zero(d);
  int64_t i = 0;
  for (; i + kParts * lanes <= count; i += kParts * lanes) {
    HWY_UNROLL(4)
    for (int p = 0; p < kParts; ++p) sums[p] = hn::Add(sums[p], hn::LoadU(d, words + i + p * lanes));
  }
  HWY_UNROLL(4)
  for (int p = 1; p < kParts; ++p) sums[0] = hn::Add(sums[0], sums[p]);
  uint64_t sum = hn::GetLane(hn::SumOfLanes(d, sums[0]));
  for (; i < count; ++i) sum += words[i];
  return sum;
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(FloatPeak);
HWY_EXPORT(BFloat16Peak);
HWY_EXPORT(Int8Peak);
HWY_EXPORT(SumWords);

int64_t RunFloatPeak(int64_t steps) {
  return HWY_DYNAMIC_DISPATCH(FloatPeak)(steps);
}

int64_t RunBFloat16Peak(int64_t steps) {
  return HWY_DYNAMIC_DISPATCH(BFloat16Peak)(steps);
}

int64_t RunInt8Peak(int64_t steps) {
  return HWY_DYNAMIC_DISPATCH(Int8Peak)(steps);
}

uint64_t ReadWords(const uint64_t* words, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(SumWords)(words, count);
}

}  // namespace sluice
#endif
