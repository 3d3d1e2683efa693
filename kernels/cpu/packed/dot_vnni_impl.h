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

enum Source { kInt8Stored, kInt8Bytes, kInt4Stored, kInt4Bytes };

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
  constexpr bool kInt4 = kSource == kInt4Stored || kSource == kInt4Bytes;
  constexpr int kZeroBits = kInt4 ? kInt4ZeroBits : kInt8ZeroBits;
  ClearSums(tile, kRows);
  GroupCursor cursor = CursorAt(tile);
  for (int64_t begin = tile.begin; begin < tile.end; begin += tile.inner) {
    const int64_t end = MinOf(begin + tile.inner, tile.end);
    VB dot[kRows][kStripVectors];
    StartSums<kRows, kZeroBits>(tile, cursor, begin, end, dot);
    if (kSource == kInt4Stored) {
      const uint8_t* ahead0 = Ahead(tile, 0, w0);
      const uint8_t* ahead1 = Ahead(tile, 1, w1);
      for (int64_t d = begin; d < end; d += 8, w0 += 64, w1 += 64, ahead0 += 64, ahead1 += 64) {
        Fetch(ahead0);
        if (kStripPanels > 1) Fetch(ahead1);
        const VB v0 = LoadBytes(w0);
        const VB v1 = LoadBytes(w1);
        DotStep(tile, d, LowLevels(v0), LowLevels(v1), dot);
        DotStep(tile, d + 4, HighLevels(v0), HighLevels(v1), dot);
      }
    } else if (kSource == kInt8Stored) {
      const VB flip = SetBytes(1 << kInt8ZeroBits);
      const uint8_t* ahead0 = Ahead(tile, 0, w0);
      const uint8_t* ahead1 = Ahead(tile, 1, w1);
      for (int64_t d = begin; d < end; d += 4, w0 += 64, w1 += 64, ahead0 += 64, ahead1 += 64) {
        Fetch(ahead0);
        if (kStripPanels > 1) Fetch(ahead1);
        DotStep(tile, d, Xor(LoadBytes(w0), flip), Xor(LoadBytes(w1), flip), dot);
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

// Unsigned levels, [depth / 4][16][4].
void ExpandInt8(const uint8_t* from, int64_t depth, const uint8_t* next, uint8_t* to) {
  const VB flip = SetBytes(1 << kInt8ZeroBits);
  for (int64_t d = 0; d < depth; d += 4) {
    Fetch(next);
    for (int v = 0; v < kPanelVectors; ++v) {
      StoreBytes(to + v * kLanes * 4, Xor(LoadBytes(from + v * kLanes * 4), flip));
    }
    from += 64, next += 64, to += 64;
  }
}
void ExpandInt4(const uint8_t* from, int64_t depth, const uint8_t* next, uint8_t* to) {
  for (int64_t d = 0; d < depth; d += 8) {
    Fetch(next);
    for (int v = 0; v < kPanelVectors; ++v) {
      const VB levels = LoadBytes(from + v * kLanes * 4);
      StoreBytes(to + v * kLanes * 4, LowLevels(levels));
      StoreBytes(to + 64 + v * kLanes * 4, HighLevels(levels));
    }
    from += 64, next += 64, to += 128;
  }
}

#if defined(LORAMUX_SIMD_AVX512)
#define LORAMUX_TILES(source)                                                              \
  {IntDotTile<12, source>, IntDotTile<8, source>, IntDotTile<6, source>,                   \
   IntDotTile<4, source>,  IntDotTile<3, source>, IntDotTile<2, source>, IntDotTile<1, source>}
constexpr TileSet<7> kInt8Tiles = {{12, 8, 6, 4, 3, 2, 1}, LORAMUX_TILES(kInt8Stored),
                                   LORAMUX_TILES(kInt8Bytes),  ExpandInt8, 16, 24};
constexpr TileSet<7> kInt4Tiles = {{12, 8, 6, 4, 3, 2, 1}, LORAMUX_TILES(kInt4Stored),
                                   LORAMUX_TILES(kInt4Bytes),  ExpandInt4, 16, 24};
#else
#define LORAMUX_TILES(source)                                                              \
  {IntDotTile<6, source>, IntDotTile<4, source>, IntDotTile<3, source>, IntDotTile<2, source>, \
   IntDotTile<1, source>}
constexpr TileSet<5> kInt8Tiles = {{6, 4, 3, 2, 1}, LORAMUX_TILES(kInt8Stored),
                                   LORAMUX_TILES(kInt8Bytes), ExpandInt8, 16, 12};
constexpr TileSet<5> kInt4Tiles = {{6, 4, 3, 2, 1}, LORAMUX_TILES(kInt4Stored),
                                   LORAMUX_TILES(kInt4Bytes), ExpandInt4, 16, 12};
#endif
#undef LORAMUX_TILES

LORAMUX_INLINE void MultiplyInt8(const MultiplyArgs& args) {
  MultiplyStrips(args, kInt8Tiles, IntTile(args), RowBlock(args.operand, 1));
}
LORAMUX_INLINE void MultiplyInt4(const MultiplyArgs& args) {
  MultiplyStrips(args, kInt4Tiles, IntTile(args), RowBlock(args.operand, 1));
}

}  // namespace loramux::packed::LORAMUX_PACKED_NS
