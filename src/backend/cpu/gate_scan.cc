// One scan over the packed int8 gate keys with the filter fused in: each query keeps a buffer of the entries
// above a running threshold and halves it when full. With 8-bit dot products a bound on the scores of a group
// comes first, and most groups end there.
#include "backend/cpu/gate_scan.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "hwy/aligned_allocator.h"

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/gate_scan.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/gate_scores-inl.h"
// clang-format on

#ifndef SLUICE_BACKEND_CPU_GATE_SCAN_ONCE
#define SLUICE_BACKEND_CPU_GATE_SCAN_ONCE
namespace sluice {
constexpr int64_t kBlockGroups = 32;  // Groups of 16 keys per block: 16 KiB of codes at size 32.
constexpr int64_t kFirstKeys = 4096;  // Of a query, all scored exactly; a multiple of a block.

// At most kBlockGroups groups of keys from `begin` on, below `last` (both whole groups), that lie one after
// another.
struct KeyBlock {
  int64_t end;
  const int8_t* codes;
  const uint16_t* scale_bits;
  KeyBlock(const GateKeyView& keys, int64_t size, int64_t begin, int64_t last)
      : end(keys.map.RunEnd(begin, std::min(begin + kBlockGroups * GateKeyView::kGroup, last))),
        codes(static_cast<const int8_t*>(keys.packed.raw()) + keys.map.Slot(begin) * size),
        scale_bits(static_cast<const uint16_t*>(keys.scale.raw()) + keys.map.Slot(begin)) {}
};
}  // namespace sluice
#endif

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// Scores one group exactly and keeps what is above the query's threshold.
HWY_INLINE void ScanGroup(const int8_t* packed, const float* key_scale, int64_t first_key,
                          const ScanQuery& query, int64_t heads, int64_t size) {
  HWY_ALIGN float scores[kGroup];
  GroupScores(packed, key_scale, query, heads, size, scores);
  uint32_t bits = PassBits(scores, query.top->threshold());
  if (bits == 0) return;
  if (first_key < query.begin) bits &= 0xffffffffu << (query.begin - first_key);
  if (first_key + kGroup > query.end) bits &= (1u << (query.end - first_key)) - 1;
  for (; bits != 0; bits &= bits - 1) {
    const int i = std::countr_zero(bits);
    query.top->Add(scores[i], first_key + i);
  }
  query.top->CompactIfFull();
}

#if HWY_TARGET == HWY_AVX3

HWY_ALIGN constexpr uint16_t kInterleave[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};

// Four channels of a group's keys for vpdpbusd: [16 keys][4], codes + 128 so that they are unsigned; a
// missing last pair is code 0. `channel` is a multiple of 4.
SLUICE_TARGET_VNNI HWY_INLINE __m512i Quad(const int8_t* packed, int64_t channel, int64_t size) {
  const int8_t* codes = packed + channel * kGroup;
  const __m512i pairs =
      channel + 4 <= size
          ? _mm512_loadu_si512(codes)
          : _mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
  return _mm512_xor_si512(_mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), pairs),
                          _mm512_set1_epi8(static_cast<char>(0x80)));
}

// All quads of a group, [size / 4 rounded up][16 keys][4]: for several queries.
SLUICE_TARGET_VNNI void MakeQuads(const int8_t* packed, int64_t size, uint8_t* quads) {
  for (int64_t c = 0; c < size; c += 4) _mm512_store_si512(quads + c * kGroup, Quad(packed, c, size));
}

// The first group in [group, end) that may hold a score above the query's threshold, by the bound of
// MayPass below; for a query that reads each group once, so that quads never leave the registers.
SLUICE_TARGET_VNNI int64_t NextMayPass(const int8_t* packed, const float* key_scale, const ScanQuery& query,
                                       int64_t heads, int64_t size, int64_t group, int64_t end) {
  const int64_t num_quads = (size + 3) / 4;
  const __m512 threshold = _mm512_set1_ps(query.top->threshold());
  for (; group < end; ++group) {
    const int8_t* codes = packed + group * kGroup * size;
    __m512 bound = _mm512_setzero_ps();
    for (int64_t h = 0; h < heads; h += 4) {
      const int64_t rows = std::min<int64_t>(4, heads - h);
      const int32_t* coarse[4];
      __m512i sum[4];
      HWY_UNROLL(4)
      for (int r = 0; r < 4; ++r) {
        const int64_t head = r < rows ? h + r : h;
        coarse[r] = query.coarse + head * num_quads;
        sum[r] = _mm512_set1_epi32(query.coarse_init[head]);
      }
      for (int64_t i = 0; i < num_quads; ++i) {
        const __m512i keys = Quad(codes, 4 * i, size);
        HWY_UNROLL(4)
        for (int r = 0; r < 4; ++r)
          sum[r] = _mm512_dpbusd_epi32(sum[r], keys, _mm512_set1_epi32(coarse[r][i]));
      }
      HWY_UNROLL(4)
      for (int r = 0; r < 4; ++r) {
        const __m512 weight = r < rows ? _mm512_set1_ps(query.coarse_weight[h + r]) : _mm512_setzero_ps();
        const __m512i positive = _mm512_max_epi32(sum[r], _mm512_setzero_si512());
        bound = _mm512_fmadd_ps(weight, _mm512_cvtepi32_ps(positive), bound);
      }
    }
    const __m512 score = _mm512_mul_ps(_mm512_load_ps(key_scale + group * kGroup), bound);
    if (_mm512_cmp_ps_mask(score, threshold, _CMP_GT_OQ) != 0) break;
  }
  return group;
}

// Bit g of the result: whether group g of 4 may hold a score above the query's threshold. With
// query = 128 coarse + rest, a dot product is at most 128 (coarse · key) + 127 Σ|rest|; every step that
// follows is monotone in it, rounding included, so no score above the threshold is missed.
SLUICE_TARGET_VNNI uint32_t MayPass(const uint8_t* quads, const float* key_scale, const ScanQuery& query,
                                    int64_t heads, int64_t size) {
  const int64_t num_quads = (size + 3) / 4;
  const int64_t group_bytes = num_quads * 4 * kGroup;
  __m512 bound[4];
  HWY_UNROLL(4)
  for (int g = 0; g < 4; ++g) bound[g] = _mm512_setzero_ps();
  for (int64_t h = 0; h < heads; h += 2) {
    const int64_t second = h + 1 < heads ? h + 1 : h;
    __m512i sum[2][4];
    HWY_UNROLL(4)
    for (int g = 0; g < 4; ++g) {
      sum[0][g] = _mm512_set1_epi32(query.coarse_init[h]);
      sum[1][g] = _mm512_set1_epi32(query.coarse_init[second]);
    }
    const int32_t* q0 = query.coarse + h * num_quads;
    const int32_t* q1 = query.coarse + second * num_quads;
    for (int64_t i = 0; i < num_quads; ++i) {
      const __m512i c0 = _mm512_set1_epi32(q0[i]);
      const __m512i c1 = _mm512_set1_epi32(q1[i]);
      HWY_UNROLL(4)
      for (int g = 0; g < 4; ++g) {
        const __m512i keys = _mm512_load_si512(quads + g * group_bytes + i * 64);
        sum[0][g] = _mm512_dpbusd_epi32(sum[0][g], keys, c0);
        sum[1][g] = _mm512_dpbusd_epi32(sum[1][g], keys, c1);
      }
    }
    const __m512 w0 = _mm512_set1_ps(query.coarse_weight[h]);
    const __m512 w1 = second > h ? _mm512_set1_ps(query.coarse_weight[second]) : _mm512_setzero_ps();
    HWY_UNROLL(4)
    for (int g = 0; g < 4; ++g) {
      const __m512i zero = _mm512_setzero_si512();
      bound[g] = _mm512_fmadd_ps(w0, _mm512_cvtepi32_ps(_mm512_max_epi32(sum[0][g], zero)), bound[g]);
      bound[g] = _mm512_fmadd_ps(w1, _mm512_cvtepi32_ps(_mm512_max_epi32(sum[1][g], zero)), bound[g]);
    }
  }
  const __m512 threshold = _mm512_set1_ps(query.top->threshold());
  uint32_t result = 0;
  HWY_UNROLL(4)
  for (int g = 0; g < 4; ++g) {
    const __m512 score = _mm512_mul_ps(_mm512_load_ps(key_scale + g * kGroup), bound[g]);
    result |= static_cast<uint32_t>(_mm512_cmp_ps_mask(score, threshold, _CMP_GT_OQ) != 0) << g;
  }
  return result;
}

#endif

// The first keys of a query, up to a group boundary: nothing can be left out before k of them have been
// scored, so that all are, exactly; unless an earlier search found k. Returns the key to go on from.
HWY_INLINE int64_t ScanFirstKeys(const GateKeyView& keys, const ScanQuery& query, int64_t heads, int64_t size,
                                 float* HWY_RESTRICT scores) {
  const int64_t first = query.begin / kGroup * kGroup;
  const int64_t last = std::min(first + kFirstKeys, (query.end + kGroup - 1) / kGroup * kGroup);
  if (query.begin >= query.end) return query.end;
  if (query.top->full()) return query.begin;
  HWY_ALIGN float scale[kBlockGroups * kGroup];
  for (int64_t block = first, block_end = first; block < last; block = block_end) {
    const KeyBlock at(keys, size, block, last);
    block_end = at.end;
    WidenScales(at.scale_bits, std::min(block_end, query.end) - block, kBlockGroups * kGroup, scale);
    int64_t s = block;
#if HWY_TARGET == HWY_AVX3
    for (; s + 2 * kGroup <= block_end; s += 2 * kGroup) {
      TwoGroupScores(at.codes + (s - block) * size, kGroup * size, scale + (s - block), query, heads, size,
                     scores + (s - first));
    }
#endif
    for (; s < block_end; s += kGroup) {
      GroupScores(at.codes + (s - block) * size, scale + (s - block), query, heads, size,
                  scores + (s - first));
    }
  }
  std::fill(scores, scores + (query.begin - first), -1.0f);
  if (query.end < last) std::fill(scores + (query.end - first), scores + (last - first), -1.0f);
  const float bound = LowerBoundOfBest(scores, last - first, query.top->k());
  for (int64_t s = first; s < last; s += kGroup) {
    uint32_t bits = PassBits(scores + (s - first), std::max(bound, query.top->threshold()));
    for (; bits != 0; bits &= bits - 1) {
      const int i = std::countr_zero(bits);
      query.top->Add(scores[s - first + i], s + i);
    }
    query.top->CompactIfFull();
  }
  query.top->Compact();
  return last;
}

// Scans the keys of `count` queries; every entry that can be among a query's k best stays in its top.
void ScanKeys(const GateKeyView& keys, ScanQuery* queries, int64_t count, int64_t heads, int64_t size) {
  const auto first_scores = hwy::AllocateAligned<float>(kFirstKeys);
  int64_t begin = keys.num_keys;
  int64_t end = 0;
  for (int64_t i = 0; i < count; ++i) {
    queries[i].begin = ScanFirstKeys(keys, queries[i], heads, size, first_scores.get());
    begin = std::min(begin, queries[i].begin);
    end = std::max(end, queries[i].end);
  }
  HWY_ALIGN float scale[kBlockGroups * kGroup];
  const int64_t block_keys = kBlockGroups * kGroup;
#if HWY_TARGET == HWY_AVX3
  const bool has_coarse = HasVnni();
  const int64_t quad_bytes = (size + 3) / 4 * 4;  // Per key.
  const auto quads = hwy::AllocateAligned<uint8_t>(static_cast<size_t>(block_keys * quad_bytes));
  std::fill_n(quads.get(), block_keys * quad_bytes, uint8_t{0});
#endif
  for (int64_t block = begin / kGroup * kGroup, block_end = block; block < end; block = block_end) {
    const KeyBlock at(keys, size, block, (end + kGroup - 1) / kGroup * kGroup);
    block_end = at.end;
    WidenScales(at.scale_bits, std::min(block_end, keys.num_keys) - block, block_keys, scale);
#if HWY_TARGET == HWY_AVX3
    for (int64_t s = block; has_coarse && count > 1 && s < block_end; s += kGroup) {
      MakeQuads(at.codes + (s - block) * size, size, quads.get() + (s - block) * quad_bytes);
    }
#endif
    for (int64_t i = 0; i < count; ++i) {
      const ScanQuery& query = queries[i];
      int64_t from = std::max(block, query.begin / kGroup * kGroup);
      const int64_t to = std::min(block_end, query.end);
#if HWY_TARGET == HWY_AVX3
      if (has_coarse && count == 1) {
        const int64_t end_group = (to - block + kGroup - 1) / kGroup;
        for (int64_t group = (from - block) / kGroup;; ++group) {
          group = NextMayPass(at.codes, scale, query, heads, size, group, end_group);
          if (group >= end_group) break;
          const int64_t first = block + group * kGroup;
          ScanGroup(at.codes + group * kGroup * size, scale + group * kGroup, first, query, heads, size);
        }
      }
      // Four groups at a time; past the last of the block they read what an earlier block left there.
      constexpr int64_t kStep = 4 * kGroup;
      for (int64_t s = block + (from - block) / kStep * kStep; has_coarse && count > 1 && s < to;
           s += kStep) {
        uint32_t may_pass =
            MayPass(quads.get() + (s - block) * quad_bytes, scale + (s - block), query, heads, size);
        for (; may_pass != 0; may_pass &= may_pass - 1) {
          const int64_t first = s + std::countr_zero(may_pass) * kGroup;
          if (first < from || first >= to) continue;
          ScanGroup(at.codes + (first - block) * size, scale + (first - block), first, query, heads, size);
        }
      }
      if (has_coarse) from = to;
#endif
      for (int64_t s = from; s < to; s += kGroup) {
        ScanGroup(at.codes + (s - block) * size, scale + (s - block), s, query, heads, size);
      }
    }
  }
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(ScanKeys);

void gate_scan::ScanKeys(const GateKeyView& keys, ScanQuery* queries, int64_t count, int64_t heads,
                         int64_t size) {
  HWY_DYNAMIC_DISPATCH(ScanKeys)(keys, queries, count, heads, size);
}

}  // namespace sluice
#endif  // HWY_ONCE
