// Products of levels without VNNI: bytes are multiplied and added in 16 bits. Levels of 4 bits
// leave room there for 32 inputs (8 sums of two products, 15 * 127 each). An int8 weight plus 128
// is taken as two such levels, low and high; zero points come off as multiples of the sums of
// activations.
#pragma once

#include "cpu/packed/strip_impl.h"

namespace loramux::packed::LORAMUX_PACKED_NS {

constexpr int kInt8ZeroBits = 7;  // 128
constexpr int kInt4ZeroBits = 3;  // 8
constexpr int kBlockSteps = static_cast<int>(kSumBlock) / 4;  // that 16 bits can hold

enum Source { kInt8Stored, kInt8Halves, kInt4Stored, kBytes };

// sum += products, in 16 bits. GCC 12 would turn a chain of these into a tree, for which it has not
// the registers.
LORAMUX_INLINE void AddProducts(VB* sum, VB weights, VB levels) {
  VB products;
#if defined(LORAMUX_SIMD_AVX512)
  __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"
          : "+v"(*sum), "=&v"(products)
          : "v"(weights), "v"(levels));
#else
  __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"
          : "+x"(*sum), "=&x"(products)
          : "x"(weights), "x"(levels));
#endif
}

// Four of depth: two vectors of levels with every row. The first step of a block starts its sums.
template <int kRows>
LORAMUX_INLINE void LevelStep(const uint8_t* rows, int64_t row_bytes, bool first, VB w0, VB w1,
                              VB (&block)[kRows][2]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const VB a = RepeatInt(rows + r * row_bytes);
    if (first) {
      block[r][0] = MulBytes(w0, a);
      block[r][1] = MulBytes(w1, a);
    } else {
      AddProducts(&block[r][0], w0, a);
      AddProducts(&block[r][1], w1, a);
    }
  }
}

template <int kRows, Source kSource>
void Int4Tile(const Tile& tile) {
  const VB one = SetShorts(1);
  const uint8_t* w0 = tile.weights[0];
  const uint8_t* w1 = tile.weights[1];
  ClearSums(tile, kRows);
  GroupCursor cursor = CursorAt(tile);
  for (int64_t begin = tile.begin; begin < tile.end; begin += tile.inner) {
    const int64_t end = MinOf(begin + tile.inner, tile.end);
    VB dot[kRows][kStripVectors];
    StartSums<kRows, kInt4ZeroBits>(tile, cursor, begin, end, dot);
    for (int64_t d = begin; d < end; d += kSumBlock) {
      VB block[kRows][2];
      const uint8_t* rows = tile.rows + d;
      if (kSource == kInt4Stored) {
        const uint8_t* ahead0 = Ahead(tile, 0, w0);
        const uint8_t* ahead1 = Ahead(tile, 1, w1);
#pragma GCC unroll 8
        for (int s = 0; s < kBlockSteps; s += 2, w0 += 64, w1 += 64) {
          Fetch(ahead0 + s * 32);
          if (kStripPanels > 1) Fetch(ahead1 + s * 32);
          const VB v0 = LoadBytes(w0);
          const VB v1 = LoadBytes(w1);
          const uint8_t* at = rows + s * 4;
          LevelStep(at, tile.row_bytes, s == 0, LowLevels(v0), LowLevels(v1), block);
          LevelStep(at + 4, tile.row_bytes, false, HighLevels(v0), HighLevels(v1), block);
        }
      } else {
#pragma GCC unroll 8
        for (int s = 0; s < kBlockSteps; ++s, w0 += 64, w1 += 64) {
          LevelStep(rows + s * 4, tile.row_bytes, s == 0, LoadBytes(w0), LoadBytes(w1), block);
        }
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        dot[r][0] = AddInts(dot[r][0], MulShorts(block[r][0], one));
        dot[r][1] = AddInts(dot[r][1], MulShorts(block[r][1], one));
      }
    }
    AddGroup(tile, cursor, dot);
    Step(&cursor);
  }
}

template <int kRows, Source kSource>
void Int8Tile(const Tile& tile) {
  const VB one = SetShorts(1);
  const VB sixteen = SetShorts(16);
  const VB flip = SetBytes(1 << kInt8ZeroBits);
  ClearSums(tile, kRows);
  GroupCursor cursor = CursorAt(tile);
  constexpr int64_t kStepBytes = kSource == kInt8Stored ? 64 : 128;
  for (int64_t begin = tile.begin; begin < tile.end; begin += tile.inner) {
    const int64_t end = MinOf(begin + tile.inner, tile.end);
    VB dot[kRows][kStripVectors];
    StartSums<kRows, kInt8ZeroBits>(tile, cursor, begin, end, dot);
    for (int v = 0; v < kStripVectors; ++v) {
      const uint8_t* w = tile.weights[v] + (begin - tile.begin) / 4 * kStepBytes;
      for (int64_t d = begin; d < end; d += kSumBlock) {
        VB block[kRows][2];
        const uint8_t* rows = tile.rows + d;
        if (kSource == kInt8Stored) {
          const uint8_t* ahead = Ahead(tile, v, w);
#pragma GCC unroll 8
          for (int s = 0; s < kBlockSteps; ++s, w += kStepBytes) {
            if (kStripPanels > 1 || v == 0) Fetch(ahead + s * 64);
            const VB levels = Xor(LoadBytes(w), flip);
            LevelStep(rows + s * 4, tile.row_bytes, s == 0, LowLevels(levels), HighLevels(levels),
                      block);
          }
        } else {
#pragma GCC unroll 8
          for (int s = 0; s < kBlockSteps; ++s, w += kStepBytes) {
            LevelStep(rows + s * 4, tile.row_bytes, s == 0, LoadBytes(w), LoadBytes(w + 64),
                      block);
          }
        }
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const VB low = MulShorts(block[r][0], one);
          dot[r][v] = AddInts(dot[r][v], AddInts(low, MulShorts(block[r][1], sixteen)));
        }
      }
    }
    AddGroup(tile, cursor, dot);
    Step(&cursor);
  }
}

// [depth / 4][low, high][16][4]
void ExpandInt8(const uint8_t* from, int64_t depth, const uint8_t* next, uint8_t* to) {
  const VB flip = SetBytes(1 << kInt8ZeroBits);
  for (int64_t d = 0; d < depth; d += 4) {
    Fetch(next);
    for (int v = 0; v < kPanelVectors; ++v) {
      const VB levels = Xor(LoadBytes(from + v * kLanes * 4), flip);
      StoreBytes(to + v * kLanes * 4, LowLevels(levels));
      StoreBytes(to + 64 + v * kLanes * 4, HighLevels(levels));
    }
    from += 64, next += 64, to += 128;
  }
}
// [depth / 4][16][4]
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
#define LORAMUX_TILES(tile, source) \
  {tile<8, source>, tile<4, source>, tile<3, source>, tile<2, source>, tile<1, source>}
constexpr TileSet<5> kInt8Tiles = {{8, 4, 3, 2, 1}, LORAMUX_TILES(Int8Tile, kInt8Stored),
                                   LORAMUX_TILES(Int8Tile, kInt8Halves), ExpandInt8, 32, 8};
constexpr TileSet<5> kInt4Tiles = {{8, 4, 3, 2, 1}, LORAMUX_TILES(Int4Tile, kInt4Stored),
                                   LORAMUX_TILES(Int4Tile, kBytes), ExpandInt4, 16, 8};
#else
#define LORAMUX_TILES(tile, source) \
  {tile<4, source>, tile<3, source>, tile<2, source>, tile<1, source>}
constexpr TileSet<4> kInt8Tiles = {{4, 3, 2, 1}, LORAMUX_TILES(Int8Tile, kInt8Stored),
                                   LORAMUX_TILES(Int8Tile, kInt8Halves), ExpandInt8, 32, 4};
constexpr TileSet<4> kInt4Tiles = {{4, 3, 2, 1}, LORAMUX_TILES(Int4Tile, kInt4Stored),
                                   LORAMUX_TILES(Int4Tile, kBytes), ExpandInt4, 16, 16};
#endif
#undef LORAMUX_TILES

LORAMUX_INLINE void MultiplyInt8(const MultiplyArgs& args) {
  MultiplyStrips(args, kInt8Tiles, IntTile(args), RowBlock(args.operand, 1));
}
LORAMUX_INLINE void MultiplyInt4(const MultiplyArgs& args) {
  MultiplyStrips(args, kInt4Tiles, IntTile(args), RowBlock(args.operand, 1));
}

}  // namespace loramux::packed::LORAMUX_PACKED_NS
