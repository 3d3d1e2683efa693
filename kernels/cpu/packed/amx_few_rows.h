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
// Panels side by side are streams that memory serves side by side.
template <int kRows, int kPanels, bool kInt4>
void FewRows(const MultiplyArgs& args, int64_t panel) {
  const Operand& operand = args.operand;
  const PackedLayout& layout = args.layout;
  const int64_t outer = operand.activation_group;
  const int64_t group = args.weight.shape.group;
  const int64_t inner = group > 0 ? Min(group, outer) : outer;
  const int64_t scale_stride = RowBlocks(operand) * kRowsPerBlock;
  const int64_t sums_stride = operand.padded_k / kSumDepth;
  const uint8_t* from = args.weight.blob + panel * layout.panel_bytes;
  const uint8_t* tiles = Tiles(operand);
  [[maybe_unused]] const __m512i low = _mm512_set1_epi8(15);
  [[maybe_unused]] const __m512i ones = _mm512_set1_epi8(1);
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
      __m512i acc[kPanels][kRows][2];
      __m512i weight_sum[kPanels];
#pragma GCC unroll 4
      for (int c = 0; c < kPanels; ++c) {
        weight_sum[c] = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) acc[c][r][0] = acc[c][r][1] = _mm512_setzero_si512();
      }
      for (int64_t k = begin; k < end; k += 8, from += kInt4 ? 64 : 128) {
        const uint8_t* a = tiles + static_cast<uint64_t>(k) / 64 * kTileBytes +
                           static_cast<uint64_t>(k) % 64;
        __m512i quads[kRows][2];
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          int32_t pair[2];
          __builtin_memcpy(pair, a + r * 64, sizeof(pair));
          constexpr int32_t kFlip = kInt4 ? 0 : static_cast<int32_t>(0x80808080u);
          quads[r][0] = _mm512_set1_epi32(pair[0] ^ kFlip);
          quads[r][1] = _mm512_set1_epi32(pair[1] ^ kFlip);
        }
#pragma GCC unroll 4
        for (int c = 0; c < kPanels; ++c) {
          const uint8_t* at = from + c * layout.panel_bytes;
          _mm_prefetch(at + kStreamAhead, _MM_HINT_T1);
          __m512i first = _mm512_loadu_si512(at);
          __m512i second;
          if constexpr (kInt4) {
            second = _mm512_and_si512(_mm512_srli_epi16(first, 4), low);
            first = _mm512_and_si512(first, low);
          } else {
            _mm_prefetch(at + kStreamAhead + 64, _MM_HINT_T1);
            second = _mm512_loadu_si512(at + 64);
            weight_sum[c] = _mm512_dpbusd_epi32(weight_sum[c], ones, first);
            weight_sum[c] = _mm512_dpbusd_epi32(weight_sum[c], ones, second);
          }
#pragma GCC unroll 4
          for (int r = 0; r < kRows; ++r) {
            if constexpr (kInt4) {
              acc[c][r][0] = _mm512_dpbusd_epi32(acc[c][r][0], first, quads[r][0]);
              acc[c][r][1] = _mm512_dpbusd_epi32(acc[c][r][1], second, quads[r][1]);
            } else {
              acc[c][r][0] = _mm512_dpbusd_epi32(acc[c][r][0], quads[r][0], first);
              acc[c][r][1] = _mm512_dpbusd_epi32(acc[c][r][1], quads[r][1], second);
            }
          }
        }
      }
      if (group > 0 && begin >= (scale_group + 1) * group) ++scale_group;
      const int64_t g = group > 0 ? Min(scale_group, layout.groups - 1) : 0;
      const float* row_scale = Scales(operand) + number * scale_stride;
      for (int c = 0; c < kPanels; ++c) {
        const int64_t at = ((panel + c) * Max(1, layout.groups) + g) * kPanelColumns;
        __m512i zero = _mm512_set1_epi32(8);
        if (layout.zeros != 0) {
          zero = _mm512_cvtepi8_epi32(_mm_loadu_si128(
              reinterpret_cast<const __m128i*>(args.weight.blob + layout.zeros + at)));
        }
        __m512 scale = _mm512_setzero_ps();
        if (group > 0) {
          scale = _mm512_cvtph_ps(_mm256_loadu_si256(
              reinterpret_cast<const __m256i*>(args.weight.blob + layout.scales + at * 2)));
        }
        for (int r = 0; r < kRows; ++r) {
          int32_t sum = 0;
          const int32_t* sums = Sums(operand) + r * sums_stride;
          for (int64_t u = begin / kSumDepth; kInt4 && u < end / kSumDepth; ++u) sum += sums[u];
          const __m512i excess = kInt4 ? _mm512_mullo_epi32(zero, _mm512_set1_epi32(sum))
                                       : _mm512_slli_epi32(weight_sum[c], 7);
          const __m512i exact =
              _mm512_sub_epi32(_mm512_add_epi32(acc[c][r][0], acc[c][r][1]), excess);
          __m512 x = _mm512_cvtepi32_ps(exact);
          if (group > 0) x = _mm512_mul_ps(x, scale);
          total[c][r] = _mm512_fmadd_ps(x, _mm512_set1_ps(row_scale[r]), total[c][r]);
        }
      }
    }
  }
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

template <int kRows, int kPanels, bool kInt4>
LORAMUX_INLINE void FewRowsPanels(const MultiplyArgs& args) {
  int64_t panel = args.first_panel;
  for (; panel + kPanels <= args.last_panel; panel += kPanels) {
    FewRows<kRows, kPanels, kInt4>(args, panel);
  }
  for (; panel < args.last_panel; ++panel) FewRows<kRows, 1, kInt4>(args, panel);
}
template <bool kInt4>
void MultiplyFewRowsAs(const MultiplyArgs& args) {
  switch (args.operand.rows) {
    case 1:
      return FewRowsPanels<1, 4, kInt4>(args);
    case 2:
      return FewRowsPanels<2, 4, kInt4>(args);
    case 3:
      return FewRowsPanels<3, 2, kInt4>(args);
    default:
      return FewRowsPanels<4, 2, kInt4>(args);
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
