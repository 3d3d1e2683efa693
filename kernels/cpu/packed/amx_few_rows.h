// int8 and int4 times a few rows on AVX512-VNNI, for packed_amx.cc.
#pragma once

#include "cpu/packed/amx_operand.h"

namespace loramux::packed::amx {
namespace {

// With few rows weights are multiplied as they come from memory, without tiles. The sums are
// integers, so the result is what tiles would give, bit for bit. VNNI multiplies unsigned by signed
// bytes: int4 levels are unsigned as they are, and zero points come off by the activations' sums;
// for int8 it is the activations that are made unsigned by adding 128, and 128 times the weights'
// sums comes off.
// Panels side by side are streams that memory serves side by side. Every stream is fetched a little
// ahead, and at its end what this worker reads next: streams that start cold would wait for memory
// once in every panel.
constexpr int kFewPanels = 4;
constexpr int64_t kFewAhead = 1536;  // bytes of each panel
constexpr int64_t kFewDepth = 32;    // between two looks where a panel ends: the narrowest group

// Group `g` of a panel's scales or zero points, elements of `bytes`.
LORAMUX_INLINE const uint8_t* GroupAt(const MultiplyArgs& args, int64_t section, int64_t panel,
                                      int64_t g, int64_t bytes) {
  return args.weight.blob + section +
         (panel * Max(1, args.layout.groups) + g) * kPanelColumns * bytes;
}

// Depth `k` to k + kFewDepth; what lies `ahead` is fetched on the way.
template <int kRows, int kPanels, bool kInt4>
LORAMUX_INLINE void FewDepth(const uint8_t* from, const uint8_t* ahead, int64_t panel_bytes,
                             const uint8_t* a, __m512i (&acc)[kPanels][kRows],
                             __m512i (&weight_sum)[kPanels]) {
  constexpr int64_t kLine = 64;
  const __m512i low = _mm512_set1_epi8(15);
  const __m512i ones = _mm512_set1_epi8(1);
#pragma GCC unroll 4
  for (int64_t k = 0; k < kFewDepth; k += 8) {
    const int64_t at = k / 8 * (kInt4 ? kLine : 2 * kLine);
    __m512i quads[kRows][2];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      int32_t pair[2];
      __builtin_memcpy(pair, a + k + r * kLine, sizeof(pair));
      constexpr int32_t kFlip = kInt4 ? 0 : static_cast<int32_t>(0x80808080u);
      quads[r][0] = _mm512_set1_epi32(pair[0] ^ kFlip);
      quads[r][1] = _mm512_set1_epi32(pair[1] ^ kFlip);
    }
#pragma GCC unroll 4
    for (int c = 0; c < kPanels; ++c) {
      const uint8_t* weights = from + c * panel_bytes + at;
      _mm_prefetch(ahead + c * panel_bytes + at, _MM_HINT_T0);
      __m512i first = _mm512_loadu_si512(weights);
      __m512i second;
      if constexpr (kInt4) {
        second = _mm512_and_si512(_mm512_srli_epi16(first, 4), low);
        first = _mm512_and_si512(first, low);
      } else {
        _mm_prefetch(ahead + c * panel_bytes + at + kLine, _MM_HINT_T0);
        second = _mm512_loadu_si512(weights + kLine);
        weight_sum[c] = _mm512_dpbusd_epi32(weight_sum[c], ones, first);
        weight_sum[c] = _mm512_dpbusd_epi32(weight_sum[c], ones, second);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        if constexpr (kInt4) {
          acc[c][r] = _mm512_dpbusd_epi32(acc[c][r], first, quads[r][0]);
          acc[c][r] = _mm512_dpbusd_epi32(acc[c][r], second, quads[r][1]);
        } else {
          acc[c][r] = _mm512_dpbusd_epi32(acc[c][r], quads[r][0], first);
          acc[c][r] = _mm512_dpbusd_epi32(acc[c][r], quads[r][1], second);
        }
      }
    }
  }
}

// Panels from `panel`; `next_panel` is the first of those that are likely to be read after them.
template <int kRows, int kPanels, bool kInt4>
void FewRows(const MultiplyArgs& args, int64_t panel, int64_t next_panel) {
  const Operand& operand = args.operand;
  const PackedLayout& layout = args.layout;
  const int64_t outer = operand.activation_group;
  const int64_t group = args.weight.shape.group;
  const int64_t inner = group > 0 ? Min(group, outer) : outer;
  const int64_t scale_stride = RowBlocks(operand) * kRowsPerBlock;
  const int64_t sums_stride = operand.padded_k / kSumDepth;
  const uint8_t* from = args.weight.blob + panel * layout.panel_bytes;
  const uint8_t* const end_of_panel = from + layout.panel_bytes;
  const int64_t to_next = (next_panel - panel - 1) * layout.panel_bytes;
  const uint8_t* tiles = Tiles(operand);
  __m512 total[kPanels][kRows];
#pragma GCC unroll 4
  for (int c = 0; c < kPanels; ++c) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) total[c][r] = _mm512_setzero_ps();
  }
  int64_t scale_group = 0;
  for (int64_t outer_begin = 0, number = 0; outer_begin < operand.padded_k;
       outer_begin += outer, ++number) {
    const int64_t outer_end = Min(outer_begin + outer, operand.padded_k);
    for (int64_t begin = outer_begin; begin < outer_end; begin += inner) {
      const int64_t end = Min(begin + inner, outer_end);
      __m512i acc[kPanels][kRows];
      __m512i weight_sum[kPanels];
#pragma GCC unroll 4
      for (int c = 0; c < kPanels; ++c) {
        weight_sum[c] = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) acc[c][r] = _mm512_setzero_si512();
      }
      for (int64_t k = begin; k < end; k += kFewDepth) {
        const uint8_t* ahead = from + kFewAhead;
        if (ahead >= end_of_panel) ahead += to_next;
        const auto depth = static_cast<uint64_t>(k);
        FewDepth<kRows, kPanels, kInt4>(from, ahead, layout.panel_bytes,
                                        tiles + depth / 64 * kTileBytes + depth % 64, acc,
                                        weight_sum);
        from += kFewDepth * kPanelColumns / (kInt4 ? 2 : 1);
      }
      // A weight group wider than the activations' is read once per activation group.
      if (group > 0 && begin >= (scale_group + 1) * group) ++scale_group;
      const int64_t g = group > 0 ? Min(scale_group, layout.groups - 1) : 0;
      __m512i level_sum[kRows];
      __m512 row_scale[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        int32_t sum = 0;
        const int32_t* sums = Sums(operand) + r * sums_stride;
        for (int64_t u = begin / kSumDepth; kInt4 && u < end / kSumDepth; ++u) sum += sums[u];
        level_sum[r] = _mm512_set1_epi32(layout.zeros != 0 ? sum : 8 * sum);
        row_scale[r] = _mm512_set1_ps(Scales(operand)[number * scale_stride + r]);
      }
#pragma GCC unroll 4
      for (int c = 0; c < kPanels; ++c) {
        __m512i zero = _mm512_setzero_si512();
        if (layout.zeros != 0) {
          _mm_prefetch(GroupAt(args, layout.zeros, next_panel + c, g, 1), _MM_HINT_T0);
          zero = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(
              GroupAt(args, layout.zeros, panel + c, g, 1))));
        }
        __m512 scale = _mm512_setzero_ps();
        if (group > 0) {
          _mm_prefetch(GroupAt(args, layout.scales, next_panel + c, g, 2), _MM_HINT_T0);
          scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(
              GroupAt(args, layout.scales, panel + c, g, 2))));
        }
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          __m512i excess = level_sum[r];
          if constexpr (!kInt4) {
            excess = _mm512_slli_epi32(weight_sum[c], 7);
          } else if (layout.zeros != 0) {
            excess = _mm512_mullo_epi32(zero, excess);
          }
          __m512 x = _mm512_cvtepi32_ps(_mm512_sub_epi32(acc[c][r], excess));
          if (group > 0) x = _mm512_mul_ps(x, scale);
          total[c][r] = _mm512_fmadd_ps(x, row_scale[r], total[c][r]);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < kPanels; ++c) {
    const Finish finish = FinishOf(args, panel + c);
    for (int r = 0; r < kRows; ++r) {
      StoreRow(args, finish, r, (panel + c) * kPanelColumns,
               _mm512_mul_ps(total[c][r], finish.column_scale));
    }
  }
}

LORAMUX_INLINE bool AreFewRows(const MultiplyArgs& args) {
  return IsInt(args.operand) && args.operand.rows <= kFewRows;
}

// What this worker is likely to read when it comes to `panel`.
LORAMUX_INLINE int64_t LikelyPanel(const MultiplyArgs& args, int64_t panel) {
  if (panel < args.last_panel) return panel;
  return args.next_first < args.next_last ? args.next_first : args.first_panel;
}
template <int kRows, bool kInt4>
LORAMUX_INLINE void FewRowsPanels(const MultiplyArgs& args) {
  int64_t panel = args.first_panel;
  for (; panel + kFewPanels <= args.last_panel; panel += kFewPanels) {
    FewRows<kRows, kFewPanels, kInt4>(args, panel, LikelyPanel(args, panel + kFewPanels));
  }
  for (; panel < args.last_panel; ++panel) {
    FewRows<kRows, 1, kInt4>(args, panel, LikelyPanel(args, panel + 1));
  }
}
template <bool kInt4>
void MultiplyFewRowsAs(const MultiplyArgs& args) {
  switch (args.operand.rows) {
    case 1:
      return FewRowsPanels<1, kInt4>(args);
    case 2:
      return FewRowsPanels<2, kInt4>(args);
    case 3:
      return FewRowsPanels<3, kInt4>(args);
    default:
      return FewRowsPanels<4, kInt4>(args);
  }
}
void MultiplyFewRows(const MultiplyArgs& args) {
  if (args.weight.shape.format == PackedFormat::kInt4) {
    MultiplyFewRowsAs<true>(args);
  } else {
    MultiplyFewRowsAs<false>(args);
  }
}

}  // namespace
}  // namespace loramux::packed::amx
