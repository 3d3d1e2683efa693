// Products of bfloat16: with the processor's dot product of pairs where LORAMUX_PACKED_BF16 says
// so, else both halves of a pair are widened and take a fused multiply-add each.
#pragma once

#include "cpu/packed/strip_impl.h"

namespace loramux::packed::LORAMUX_PACKED_NS {

#if defined(LORAMUX_PACKED_BF16)
typedef uint16_t Bf16Element;
#else
typedef float Bf16Element;
#endif

template <int kRows>
void Bf16Tile(const Tile& tile) {
  const uint8_t* w0 = tile.weights[0];
  const uint8_t* w1 = tile.weights[1];
  VF sum[kRows][kStripVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kStripVectors; ++v) {
      sum[r][v] = tile.begin > 0 ? Load(tile.sums + r * kStripColumns + v * kLanes) : Zero();
    }
  }
  for (int64_t block = tile.begin; block < tile.end; block += kDepthMultiple) {
    const uint8_t* ahead0 = Ahead(tile, 0, w0);
    const uint8_t* ahead1 = Ahead(tile, 1, w1);
    const uint8_t* rows = tile.rows + block * static_cast<int64_t>(sizeof(Bf16Element));
    for (int64_t d = 0; d < kDepthMultiple; d += 2, w0 += 64, w1 += 64) {
      Fetch(ahead0 + d * 32);
      if (kStripPanels > 1) Fetch(ahead1 + d * 32);
      const VB pair0 = LoadBytes(w0);
      const VB pair1 = LoadBytes(w1);
#if defined(LORAMUX_PACKED_BF16)
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const VB a = RepeatInt(rows + r * tile.row_bytes + d * 2);
        sum[r][0] = _mm512_dpbf16_ps(sum[r][0], (__m512bh)a, (__m512bh)pair0);
        sum[r][1] = _mm512_dpbf16_ps(sum[r][1], (__m512bh)a, (__m512bh)pair1);
      }
#else
      const VB mask = SetInts(static_cast<int32_t>(0xffff0000u));
      const VF low0 = AsFloats(ShiftLeft<16>(pair0));
      const VF low1 = AsFloats(ShiftLeft<16>(pair1));
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const VF a = Set1(reinterpret_cast<const float*>(rows + r * tile.row_bytes)[d]);
        sum[r][0] = Fma(low0, a, sum[r][0]);
        sum[r][1] = Fma(low1, a, sum[r][1]);
      }
      const VF high0 = AsFloats(And(pair0, mask));
      const VF high1 = AsFloats(And(pair1, mask));
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const VF a = Set1(reinterpret_cast<const float*>(rows + r * tile.row_bytes)[d + 1]);
        sum[r][0] = Fma(high0, a, sum[r][0]);
        sum[r][1] = Fma(high1, a, sum[r][1]);
      }
#endif
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kStripVectors; ++v) {
      Store(tile.sums + r * kStripColumns + v * kLanes, sum[r][v]);
    }
  }
}

#if defined(LORAMUX_SIMD_AVX512)
constexpr TileSet<7> kBf16Tiles = {
    {12, 8, 6, 4, 3, 2, 1},
    {Bf16Tile<12>, Bf16Tile<8>, Bf16Tile<6>, Bf16Tile<4>, Bf16Tile<3>, Bf16Tile<2>, Bf16Tile<1>},
    nullptr, {}, 0, 24};
#else
constexpr TileSet<5> kBf16Tiles = {
    {6, 4, 3, 2, 1},
    {Bf16Tile<6>, Bf16Tile<4>, Bf16Tile<3>, Bf16Tile<2>, Bf16Tile<1>},
    nullptr, {}, 0, 12};
#endif

}  // namespace loramux::packed::LORAMUX_PACKED_NS
