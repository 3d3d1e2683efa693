// Products on NEON. A strip is one panel: the four vectors of a row of it lie side by side. Weights
// keep their sign: int8 levels need no zero point, int4 levels are 0 to 15 either way. With
// LORAMUX_PACKED_DOTPROD the processor multiplies and adds up four bytes per lane itself.
#pragma once

#include "cpu/packed/strip_impl.h"

namespace loramux::packed::LORAMUX_PACKED_NS {

static_assert(kStripVectors == 4 && kStripPanels == 1, "tiles read whole panels");

constexpr int kInt4ZeroBits = 3;  // 8
#if defined(LORAMUX_PACKED_DOTPROD)
constexpr int kTileRows = 4;  // sums take 16 of 32 registers
#else
constexpr int kTileRows = 3;  // sums take 12, products 4
#endif
constexpr int64_t kStepDepth = 16;  // activations of a row that a register holds
constexpr int64_t kRowBytes = 4 * kPanelColumns;  // of a row of a panel

// Lane i of sums[v] += bytes 4i to 4i + 3 of weights[v] times those of lane kLane of the levels.
template <int kLane>
LORAMUX_INLINE void DotPair(VB (&sums)[2], const VB* weights, VB levels) {
#if defined(LORAMUX_PACKED_DOTPROD)
  const int8x16_t a = vreinterpretq_s8_s32(levels);
  sums[0] = vdotq_laneq_s32(sums[0], vreinterpretq_s8_s32(weights[0]), a, kLane);
  sums[1] = vdotq_laneq_s32(sums[1], vreinterpretq_s8_s32(weights[1]), a, kLane);
#else
  // Two products of levels of at most 127 fit 16 bits. GCC 12 would mix the products of many lanes,
  // for which it has not the registers.
  const VB a = vdupq_laneq_s32(levels, kLane);
  int16x8_t low0, high0, low1, high1;
  __asm__("smull %2.8h, %6.8b, %8.8b\n\tsmull %4.8h, %7.8b, %8.8b\n\t"
          "smull2 %3.8h, %6.16b, %8.16b\n\tsmull2 %5.8h, %7.16b, %8.16b\n\t"
          "addp %2.8h, %2.8h, %3.8h\n\taddp %4.8h, %4.8h, %5.8h\n\t"
          "sadalp %0.4s, %2.8h\n\tsadalp %1.4s, %4.8h"
          : "+w"(sums[0]), "+w"(sums[1]), "=&w"(low0), "=&w"(high0), "=&w"(low1), "=&w"(high1)
          : "w"(weights[0]), "w"(weights[1]), "w"(a));
#endif
}

enum Source {
  kInt8Stored,
  kInt4Stored,
  kInt4Expanding,  // as stored, leaves the other tiles kInt4Bytes
  kInt4Bytes,      // [depth / 4][16][4]
};

// Sums of a tile: pairs of vectors, as StartSums and AddGroup take them.
template <int kRows>
struct Sums {
  VB pair[kStripVectors / 2][kRows][2];
};

// Four of depth: row `kLane` of a step's four.
template <int kRows, int kLane>
LORAMUX_INLINE void DotStep(const VB (&weights)[kStripVectors], const VB (&levels)[kRows],
                            Sums<kRows>* sums) {
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    DotPair<kLane>(sums->pair[0][r], weights, levels[r]);
    DotPair<kLane>(sums->pair[1][r], weights + 2, levels[r]);
  }
}
LORAMUX_INLINE void LoadRow(const uint8_t* w, VB (&weights)[kStripVectors]) {
#pragma GCC unroll 4
  for (int v = 0; v < kStripVectors; ++v) weights[v] = LoadBytes(w + 16 * v);
}
LORAMUX_INLINE void StoreRow(uint8_t* to, const VB (&weights)[kStripVectors]) {
#pragma GCC unroll 4
  for (int v = 0; v < kStripVectors; ++v) StoreBytes(to + 16 * v, weights[v]);
}

// Rows kLane and kLane + 1 of a step, which int4 stores as one.
template <int kRows, int kLane, Source kSource>
LORAMUX_INLINE void TwoSteps(const uint8_t* w, uint8_t* to, const VB (&levels)[kRows],
                             Sums<kRows>* sums) {
  VB first[kStripVectors], second[kStripVectors];
  if (kSource == kInt4Stored || kSource == kInt4Expanding) {
    LoadRow(w, second);
#pragma GCC unroll 4
    for (int v = 0; v < kStripVectors; ++v) {
      first[v] = LowLevels(second[v]);
      second[v] = HighLevels(second[v]);
    }
    if (kSource == kInt4Expanding) {
      StoreRow(to, first);
      StoreRow(to + kRowBytes, second);
    }
  } else {
    LoadRow(w, first);
    LoadRow(w + kRowBytes, second);
  }
  DotStep<kRows, kLane>(first, levels, sums);
  DotStep<kRows, kLane + 1>(second, levels, sums);
}

template <int kRows, Source kSource>
void IntDotTile(const Tile& tile) {
  constexpr bool kHalves = kSource == kInt4Stored || kSource == kInt4Expanding;
  constexpr int64_t kTwoSteps = kHalves ? kRowBytes : 2 * kRowBytes;  // bytes
  const uint8_t* w = tile.weights[0];
  uint8_t* to = tile.expanded[0];
  ClearSums(tile, kRows);
  GroupCursor cursor = tile.cursor;
  for (int64_t begin = tile.begin; begin < tile.end; begin += tile.inner) {
    const int64_t end = MinOf(begin + tile.inner, tile.end);
    Sums<kRows> sums = {};
    if (kSource != kInt8Stored) {
      StartSums<kRows, kInt4ZeroBits, 0>(tile, cursor, begin, end, sums.pair[0]);
      StartSums<kRows, kInt4ZeroBits, 2>(tile, cursor, begin, end, sums.pair[1]);
    }
    const uint8_t* ahead = kSource != kInt4Bytes ? Ahead(tile, 0, w) : w;
    for (int64_t d = begin; d < end; d += kStepDepth) {
      if (kSource != kInt4Bytes) {
#pragma GCC unroll 4
        for (int64_t line = 0; line < 2 * kTwoSteps; line += 64) Fetch(ahead + line);
        ahead += 2 * kTwoSteps;
      }
      VB levels[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) levels[r] = LoadBytes(tile.rows + r * tile.row_bytes + d);
      TwoSteps<kRows, 0, kSource>(w, to, levels, &sums);
      // Nothing happens here, but GCC 12 would load all weights first and spill sums for them.
      __asm__("" : "+r"(w), "+w"(sums.pair[1][kRows - 1][1]));
      TwoSteps<kRows, 2, kSource>(w + kTwoSteps, to + 2 * kRowBytes, levels, &sums);
      w += 2 * kTwoSteps;
      if (kSource == kInt4Expanding) to += 4 * kRowBytes;
    }
    AddGroup<kRows, 0>(tile, cursor, sums.pair[0]);
    AddGroup<kRows, 2>(tile, cursor, sums.pair[1]);
    Step(&cursor);
  }
}

#if defined(LORAMUX_PACKED_DOTPROD)
constexpr int kTileSizes = 4;
#define LORAMUX_TILE_ROWS {4, 3, 2, 1}
#define LORAMUX_TILES(source) \
  {IntDotTile<4, source>, IntDotTile<3, source>, IntDotTile<2, source>, IntDotTile<1, source>}
#else
constexpr int kTileSizes = 3;
#define LORAMUX_TILE_ROWS {3, 2, 1}
#define LORAMUX_TILES(source) \
  {IntDotTile<3, source>, IntDotTile<2, source>, IntDotTile<1, source>}
#endif
constexpr TileSet<kTileSizes> kInt8Tiles = {
    LORAMUX_TILE_ROWS, LORAMUX_TILES(kInt8Stored), nullptr, {}, 0, 2 * kTileRows};
constexpr TileSet<kTileSizes> kInt4Tiles = {
    LORAMUX_TILE_ROWS, LORAMUX_TILES(kInt4Stored), IntDotTile<kTileRows, kInt4Expanding>,
    LORAMUX_TILES(kInt4Bytes), 16, 2 * kTileRows};
#undef LORAMUX_TILE_ROWS
#undef LORAMUX_TILES

// bfloat16: both halves of a pair are widened and take a fused multiply-add each.
typedef float Bf16Element;

template <int kRows, int kLane>
LORAMUX_INLINE void FmaStep(const VF (&weights)[kStripVectors], const VF (&x)[kRows],
                            VF (&sums)[kRows][kStripVectors]) {
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kStripVectors; ++v) {
      sums[r][v] = vfmaq_laneq_f32(sums[r][v], weights[v], x[r], kLane);
    }
  }
}
// A row of a panel: depth kLane and kLane + 1 of a vector of activations.
template <int kRows, int kLane>
LORAMUX_INLINE void PairStep(const uint8_t* w, const VF (&x)[kRows],
                             VF (&sums)[kRows][kStripVectors]) {
  const VB mask = SetInts(static_cast<int32_t>(0xffff0000u));
  VB pairs[kStripVectors];
  VF low[kStripVectors], high[kStripVectors];
  LoadRow(w, pairs);
#pragma GCC unroll 4
  for (int v = 0; v < kStripVectors; ++v) {
    low[v] = AsFloats(ShiftLeft<16>(pairs[v]));
    high[v] = AsFloats(And(pairs[v], mask));
  }
  FmaStep<kRows, kLane>(low, x, sums);
  FmaStep<kRows, kLane + 1>(high, x, sums);
}

template <int kRows>
void Bf16Tile(const Tile& tile) {
  const uint8_t* w = tile.weights[0];
  VF sums[kRows][kStripVectors];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kStripVectors; ++v) {
      sums[r][v] = tile.begin > 0 ? Load(tile.sums + r * kStripColumns + v * kLanes) : Zero();
    }
  }
  for (int64_t block = tile.begin; block < tile.end; block += kDepthMultiple) {
    const uint8_t* ahead = Ahead(tile, 0, w);
    for (int64_t d = block; d < block + kDepthMultiple; d += kLanes, w += 2 * kRowBytes) {
      Fetch(ahead), Fetch(ahead + 64);
      ahead += 2 * kRowBytes;
      VF x[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        x[r] = Load(reinterpret_cast<const float*>(tile.rows + r * tile.row_bytes) + d);
      }
      PairStep<kRows, 0>(w, x, sums);
      __asm__("" : "+r"(w), "+w"(sums[kRows - 1][kStripVectors - 1]));  // as IntDotTile
      PairStep<kRows, 2>(w + kRowBytes, x, sums);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kStripVectors; ++v) {
      Store(tile.sums + r * kStripColumns + v * kLanes, sums[r][v]);
    }
  }
}

constexpr TileSet<4> kBf16Tiles = {
    {4, 3, 2, 1}, {Bf16Tile<4>, Bf16Tile<3>, Bf16Tile<2>, Bf16Tile<1>}, nullptr, {}, 0, 8};

}  // namespace loramux::packed::LORAMUX_PACKED_NS

#include "cpu/packed/levels_impl.h"
