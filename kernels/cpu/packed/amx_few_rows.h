// int4 times a few rows on AVX512-VNNI, for packed_amx.cc.
#pragma once

#include "cpu/packed/amx_operand.h"

namespace loramux::packed::amx {
namespace {

// int4 with few rows: a panel's levels are multiplied as they come from memory, without tiles. The
// sums are integers, so the result is what tiles would give, bit for bit.
template <int kRows>
void FewRowsInt4(const MultiplyArgs& args, int64_t panel) {
  const Operand& operand = args.operand;
  const PackedLayout& layout = args.layout;
  const int64_t outer = operand.activation_group;
  const int64_t group = args.weight.shape.group;
  const int64_t inner = group > 0 ? Min(group, outer) : outer;
  const int64_t scale_stride = RowBlocks(operand) * kRowsPerBlock;
  const int64_t sums_stride = operand.padded_k / kSumDepth;
  const uint8_t* from = args.weight.blob + panel * layout.panel_bytes;
  const uint8_t* tiles = Tiles(operand);
  const Finish finish = FinishOf(args, panel);
  const __m512i low = _mm512_set1_epi8(15);
  __m512 total[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) total[r] = _mm512_setzero_ps();
  int64_t scale_group = 0;
  for (int64_t outer_begin = 0, number = 0; outer_begin < operand.padded_k;
       outer_begin += outer, ++number) {
    const int64_t outer_end = Min(outer_begin + outer, operand.padded_k);
    for (int64_t begin = outer_begin; begin < outer_end; begin += inner) {
      const int64_t end = Min(begin + inner, outer_end);
      __m512i acc[kRows][2];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = _mm512_setzero_si512();
      for (int64_t k = begin; k < end; k += 8, from += 64) {
        _mm_prefetch(from + kStreamAhead, _MM_HINT_T1);
        const __m512i v = _mm512_loadu_si512(from);
        const __m512i first = _mm512_and_si512(v, low);
        const __m512i second = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
        const uint8_t* a = tiles + static_cast<uint64_t>(k) / 64 * kTileBytes +
                           static_cast<uint64_t>(k) % 64;
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          int32_t quads[2];
          __builtin_memcpy(quads, a + r * 64, sizeof(quads));
          acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], first, _mm512_set1_epi32(quads[0]));
          acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], second, _mm512_set1_epi32(quads[1]));
        }
      }
      if (group > 0 && begin >= (scale_group + 1) * group) ++scale_group;
      const int64_t g = group > 0 ? Min(scale_group, layout.groups - 1) : 0;
      const int64_t at = (panel * Max(1, layout.groups) + g) * kPanelColumns;
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
        for (int64_t u = begin / kSumDepth; u < end / kSumDepth; ++u) sum += sums[u];
        const __m512i exact = _mm512_sub_epi32(_mm512_add_epi32(acc[r][0], acc[r][1]),
                                               _mm512_mullo_epi32(zero, _mm512_set1_epi32(sum)));
        __m512 x = _mm512_cvtepi32_ps(exact);
        if (group > 0) x = _mm512_mul_ps(x, scale);
        const float* row_scale = Scales(operand) + number * scale_stride;
        total[r] = _mm512_fmadd_ps(x, _mm512_set1_ps(row_scale[r]), total[r]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    StoreRow(args, finish, r, panel * kPanelColumns,
             _mm512_mul_ps(total[r], finish.column_scale));
  }
}

LORAMUX_INLINE bool AreFewRowsOfInt4(const MultiplyArgs& args) {
  return args.weight.shape.format == PackedFormat::kInt4 && args.operand.rows <= kFewRows;
}
void MultiplyFewRows(const MultiplyArgs& args) {
  for (int64_t panel = args.first_panel; panel < args.last_panel; ++panel) {
    switch (args.operand.rows) {
      case 1:
        FewRowsInt4<1>(args, panel);
        break;
      case 2:
        FewRowsInt4<2>(args, panel);
        break;
      case 3:
        FewRowsInt4<3>(args, panel);
        break;
      default:
        FewRowsInt4<4>(args, panel);
    }
  }
}

}  // namespace
}  // namespace loramux::packed::amx
