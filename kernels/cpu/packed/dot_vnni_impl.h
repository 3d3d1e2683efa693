// Products of levels with VNNI: four unsigned times signed bytes per lane and instruction. Weights
// are the unsigned side: int4 levels are, int8 becomes so by adding 128; zero points (128 of int8)
// come off as multiples of the sums of activations.
#pragma once

#include "cpu/packed/strip_impl.h"

namespace loramux::packed::LORAMUX_PACKED_NS {

constexpr int kInt8ZeroBits = 7;  // 128
constexpr int kInt4ZeroBits = 3;  // 8

// GCC 12 copies and spills accumulators around the intrinsic, whose operands have another type.
LORAMUX_INLINE void Dot(VB* sum, VB weights, VB levels) {
#if defined(LORAMUX_SIMD_AVX512)
  __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(weights), "v"(levels));
#else
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(*sum) : "x"(weights), "x"(levels));
#endif
}

enum Source {
  kInt8Stored,
  kInt8Expanding,  // as stored, leaves the other tiles kInt8Bytes
  kInt8Bytes,      // unsigned levels, [depth / 4][16][4]
  kInt4Stored,
  kInt4Expanding,
  kInt4Bytes,
};

// Depth d to d + 4 of a tile.
template <int kRows>
LORAMUX_INLINE void DotStep(const Tile& tile, int64_t d, VB w0, VB w1,
                            VB (&dot)[kRows][kStripVectors]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const VB a = RepeatInt(tile.rows + r * tile.row_bytes + d);
    Dot(&dot[r][0], w0, a);
    Dot(&dot[r][1], w1, a);
  }
}

template <int kRows, Source kSource>
void IntDotTile(const Tile& tile) {
  const uint8_t* w0 = tile.weights[0];
  const uint8_t* w1 = tile.weights[1];
  constexpr bool kInt4 = kSource >= kInt4Stored;
  constexpr bool kExpanding = kSource == kInt8Expanding || kSource == kInt4Expanding;
  constexpr int kZeroBits = kInt4 ? kInt4ZeroBits : kInt8ZeroBits;
  [[maybe_unused]] uint8_t* to0 = tile.expanded[0];
  [[maybe_unused]] uint8_t* to1 = tile.expanded[1];
  ClearSums(tile, kRows);
  GroupCursor cursor = tile.cursor;
  for (int64_t begin = tile.begin; begin < tile.end; begin += tile.inner) {
    const int64_t end = MinOf(begin + tile.inner, tile.end);
    VB dot[kRows][kStripVectors];
    StartSums<kRows, kZeroBits>(tile, cursor, begin, end, dot);
    if (kSource == kInt4Stored || kSource == kInt4Expanding) {
      const uint8_t* ahead0 = Ahead(tile, 0, w0);
      const uint8_t* ahead1 = Ahead(tile, 1, w1);
      for (int64_t d = begin; d < end; d += 8, w0 += 64, w1 += 64, ahead0 += 64, ahead1 += 64) {
        Fetch(ahead0);
        if (kStripPanels > 1) Fetch(ahead1);
        const VB v0 = LoadBytes(w0);
        const VB v1 = LoadBytes(w1);
        const VB low0 = LowLevels(v0), low1 = LowLevels(v1);
        const VB high0 = HighLevels(v0), high1 = HighLevels(v1);
        if (kExpanding) {
          StoreBytes(to0, low0), StoreBytes(to1, low1);
          StoreBytes(to0 + 64, high0), StoreBytes(to1 + 64, high1);
          to0 += 128, to1 += 128;
        }
        DotStep(tile, d, low0, low1, dot);
        DotStep(tile, d + 4, high0, high1, dot);
      }
    } else if (kSource == kInt8Stored || kSource == kInt8Expanding) {
      const VB flip = SetBytes(1 << kInt8ZeroBits);
      const uint8_t* ahead0 = Ahead(tile, 0, w0);
      const uint8_t* ahead1 = Ahead(tile, 1, w1);
      for (int64_t d = begin; d < end; d += 4, w0 += 64, w1 += 64, ahead0 += 64, ahead1 += 64) {
        Fetch(ahead0);
        if (kStripPanels > 1) Fetch(ahead1);
        const VB v0 = Xor(LoadBytes(w0), flip);
        const VB v1 = Xor(LoadBytes(w1), flip);
        if (kExpanding) {
          StoreBytes(to0, v0), StoreBytes(to1, v1);
          to0 += 64, to1 += 64;
        }
        DotStep(tile, d, v0, v1, dot);
      }
    } else {
      for (int64_t d = begin; d < end; d += 4, w0 += 64, w1 += 64) {
        DotStep(tile, d, LoadBytes(w0), LoadBytes(w1), dot);
      }
    }
    AddGroup(tile, cursor, dot);
    Step(&cursor);
  }
}

#if defined(LORAMUX_SIMD_AVX512)
constexpr int kTileRows = 12, kTileSizes = 7;
#define LORAMUX_TILE_ROWS {12, 8, 6, 4, 3, 2, 1}
#define LORAMUX_TILES(source)                                            \
  {IntDotTile<12, source>, IntDotTile<8, source>, IntDotTile<6, source>, \
   IntDotTile<4, source>,  IntDotTile<3, source>, IntDotTile<2, source>, IntDotTile<1, source>}
#else
constexpr int kTileRows = 6, kTileSizes = 5;
#define LORAMUX_TILE_ROWS {6, 4, 3, 2, 1}
#define LORAMUX_TILES(source)                                                                  \
  {IntDotTile<6, source>, IntDotTile<4, source>, IntDotTile<3, source>, IntDotTile<2, source>, \
   IntDotTile<1, source>}
#endif
constexpr TileSet<kTileSizes> kInt8Tiles = {
    LORAMUX_TILE_ROWS, LORAMUX_TILES(kInt8Stored), IntDotTile<kTileRows, kInt8Expanding>,
    LORAMUX_TILES(kInt8Bytes), 16, 2 * kTileRows};
constexpr TileSet<kTileSizes> kInt4Tiles = {
    LORAMUX_TILE_ROWS, LORAMUX_TILES(kInt4Stored), IntDotTile<kTileRows, kInt4Expanding>,
    LORAMUX_TILES(kInt4Bytes), 16, 2 * kTileRows};
#undef LORAMUX_TILE_ROWS
#undef LORAMUX_TILES

}  // namespace loramux::packed::LORAMUX_PACKED_NS

#include "cpu/packed/levels_impl.h"
