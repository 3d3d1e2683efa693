// Products of levels without VNNI: bytes are multiplied and added in 16 bits. Sums may wrap there
// if only their end fits: one of levels 0 to 15 that starts with minus 8 times its activations ends
// as one of -8 to 7, and 16 bits hold 32 of these (32 * 8 * 127), 64 inputs in two sums. An int8
// weight plus 128 is taken as two such levels, low and high.
#pragma once

#include "cpu/packed/strip_impl.h"

namespace loramux::packed::LORAMUX_PACKED_NS {

constexpr int kMiddleBits = 3;       // 8, in the middle of levels
constexpr int kInt8ZeroBits = 7;     // 128
constexpr int64_t kBlockDepth = 64;  // that 16 bits can hold, at most: two halves of kSumBlock
constexpr int kHalfSteps = static_cast<int>(kSumBlock) / 4;

enum Source {
  kInt8Stored,
  kInt8Expanding,  // as stored, leaves the other tiles kInt8Halves
  kInt8Halves,     // [depth / 4][low, high][16][4]
  kInt4Stored,
  kInt4Expanding,
  kInt4Bytes,  // [depth / 4][16][4]
};

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

// Beside IntRows: what 16-bit sums start with, [rows][blocks of 32][2]. Minus 8 times the row's
// levels from the block to the end of its block of 64: inputs 0 and 1 of every 4, inputs 2 and 3,
// which are the neighbours that instructions add up.
struct Starts {
  int16_t* data;
  int64_t stride;
  int64_t bytes;  // with IntRows
};
LORAMUX_INLINE Starts StartsOf(const Operand& operand) {
  const int64_t begin = IntRowsOf(operand).bytes;
  Starts starts;
  starts.data = reinterpret_cast<int16_t*>(static_cast<uint8_t*>(operand.data) + begin);
  starts.stride = operand.padded_k / kSumBlock * 2;
  starts.bytes = begin + Align64(operand.rows * starts.stride * 2);
  return starts;
}
// Of 32 levels, as int16 in the low 4 bytes.
LORAMUX_INLINE __m128i StartOf(const int8_t* levels) {
  const __m256i in = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(levels));
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1 << kMiddleBits), in);
  __m128i sum = _mm_add_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  sum = _mm_add_epi16(sum, _mm_shuffle_epi32(sum, 0x4e));
  sum = _mm_add_epi16(sum, _mm_shuffle_epi32(sum, 0xb1));
  return _mm_sub_epi16(_mm_setzero_si128(), sum);
}
LORAMUX_INLINE int64_t IntOperandBytes(const Operand& operand) { return StartsOf(operand).bytes; }
LORAMUX_INLINE void PrepareInt(const Operand& operand, const float* x, int64_t stride,
                               int64_t first_row, int64_t count) {
  PrepareIntRows(operand, x, stride, first_row, count);
  const IntRows rows = IntRowsOf(operand);
  const Starts starts = StartsOf(operand);
  for (int64_t r = first_row; r < first_row + count; ++r) {
    const int8_t* levels = rows.levels + r * rows.stride;
    int16_t* to = starts.data + r * starts.stride;
    for (int64_t d = 0; d < operand.padded_k; d += kBlockDepth, to += 4) {
      const __m128i second = StartOf(levels + d + kSumBlock);
      const __m128i both = _mm_add_epi16(StartOf(levels + d), second);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_unpacklo_epi32(both, second));
    }
  }
}

// A block of 64 inputs, or 32.
template <int kRows>
LORAMUX_INLINE void StartBlock(const Tile& tile, int64_t begin, int64_t depth,
                               VB (&block)[kRows][2]) {
  const int16_t* starts = tile.starts + begin / kSumBlock * 2;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r, starts += tile.start_stride) {
    VB start = RepeatInt(starts);
    if (depth == kSumBlock && begin % kBlockDepth == 0) {
      start = SubShorts(start, RepeatInt(starts + 2));
    }
    block[r][0] = block[r][1] = start;
  }
}

// Four of depth: two vectors of levels with every row.
template <int kRows>
LORAMUX_INLINE void LevelStep(const uint8_t* rows, int64_t row_bytes, VB w0, VB w1,
                              VB (&block)[kRows][2]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const VB a = RepeatInt(rows + r * row_bytes);
    AddProducts(&block[r][0], w0, a);
    AddProducts(&block[r][1], w1, a);
  }
}

// Sums of an inner group that wait in memory for those of its last block.
template <int kRows>
LORAMUX_INLINE void Wait(const VB (&dot)[kRows][kStripVectors], VB* waiting) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    StoreBytes(waiting + 2 * r, dot[r][0]);
    StoreBytes(waiting + 2 * r + 1, dot[r][1]);
  }
}
template <int kRows>
LORAMUX_INLINE void AddWaiting(VB (&dot)[kRows][kStripVectors], const VB* waiting) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    dot[r][0] = AddInts(dot[r][0], LoadBytes(waiting + 2 * r));
    dot[r][1] = AddInts(dot[r][1], LoadBytes(waiting + 2 * r + 1));
  }
}
// What zero points other than 8 take off waits first.
template <int kRows>
LORAMUX_INLINE void StartFromMiddle(const Tile& tile, const GroupCursor& c, int64_t begin,
                                    int64_t end, VB* waiting) {
  const VB middle = SetInts(1 << kMiddleBits);
  const VB zeros0 = SubInts(Zeros(tile, c, 0), middle);
  const VB zeros1 = SubInts(Zeros(tile, c, 1), middle);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const VB minus = MinusLevels(tile, r, begin, end);
    StoreBytes(waiting + 2 * r, MulInts(zeros0, minus));
    StoreBytes(waiting + 2 * r + 1, MulInts(zeros1, minus));
  }
}

template <int kRows, Source kSource>
void Int4Tile(const Tile& tile) {
  const VB one = SetShorts(1);
  const uint8_t* w0 = tile.weights[0];
  const uint8_t* w1 = tile.weights[1];
  [[maybe_unused]] uint8_t* to0 = tile.expanded[0];
  [[maybe_unused]] uint8_t* to1 = tile.expanded[1];
  const int64_t depth = MinOf<int64_t>(tile.inner, kBlockDepth);
  // Sums of a group's blocks but the last, and what zero points other than 8 take off. In memory:
  // registers are for the products.
  VB waiting[kRows * kStripVectors];
  ClearSums(tile, kRows);
  GroupCursor cursor = tile.cursor;
  for (int64_t begin = tile.begin; begin < tile.end; begin += tile.inner) {
    const int64_t end = MinOf(begin + tile.inner, tile.end);
    bool some = tile.zeros[0] != nullptr;
    if (some) StartFromMiddle<kRows>(tile, cursor, begin, end, waiting);
    VB dot[kRows][kStripVectors];
    int64_t d = begin;
    do {
      StartBlock(tile, d, depth, dot);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        if (h == 1 && depth == kSumBlock) break;
        const uint8_t* rows = tile.rows + d + h * kSumBlock;
        if (kSource == kInt4Bytes) {
#pragma GCC unroll 8
          for (int s = 0; s < kHalfSteps; ++s, w0 += 64, w1 += 64) {
            LevelStep(rows + s * 4, tile.row_bytes, LoadBytes(w0), LoadBytes(w1), dot);
          }
          continue;
        }
        const uint8_t* ahead0 = Ahead(tile, 0, w0);
        const uint8_t* ahead1 = Ahead(tile, 1, w1);
#pragma GCC unroll 8
        for (int s = 0; s < kHalfSteps; s += 2, w0 += 64, w1 += 64) {
          Fetch(ahead0 + s * 32);
          if (kStripPanels > 1) Fetch(ahead1 + s * 32);
          const VB v0 = LoadBytes(w0);
          const VB v1 = LoadBytes(w1);
          const VB low0 = LowLevels(v0), low1 = LowLevels(v1);
          const VB high0 = HighLevels(v0), high1 = HighLevels(v1);
          if (kSource == kInt4Expanding) {
            StoreBytes(to0, low0), StoreBytes(to1, low1);
            StoreBytes(to0 + 64, high0), StoreBytes(to1 + 64, high1);
            to0 += 128, to1 += 128;
          }
          const uint8_t* at = rows + s * 4;
          LevelStep(at, tile.row_bytes, low0, low1, dot);
          LevelStep(at + 4, tile.row_bytes, high0, high1, dot);
        }
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        dot[r][0] = MulShorts(dot[r][0], one);
        dot[r][1] = MulShorts(dot[r][1], one);
      }
      if (some) AddWaiting(dot, waiting);
      some = true;
      d += depth;
      if (d < end) Wait(dot, waiting);
    } while (d < end);
    AddGroup(tile, cursor, dot);
    Step(&cursor);
  }
}

template <int kRows, Source kSource>
void Int8Tile(const Tile& tile) {
  const VB one = SetShorts(1);
  const VB sixteen = SetShorts(16);
  const VB flip = SetBytes(1 << kInt8ZeroBits);
  const int64_t depth = MinOf<int64_t>(tile.inner, kBlockDepth);
  ClearSums(tile, kRows);
  GroupCursor cursor = tile.cursor;
  constexpr int64_t kStepBytes = kSource == kInt8Halves ? 128 : 64;
  for (int64_t begin = tile.begin; begin < tile.end; begin += tile.inner) {
    const int64_t end = MinOf(begin + tile.inner, tile.end);
    VB dot[kRows][kStripVectors];
    // 128 is 8 + 16 * 8: the middles of both levels leave 8 of it.
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      dot[r][0] = dot[r][1] = ShiftLeft<kMiddleBits>(MinusLevels(tile, r, end, begin));
    }
    for (int v = 0; v < kStripVectors; ++v) {
      const uint8_t* w = tile.weights[v] + (begin - tile.begin) / 4 * kStepBytes;
      [[maybe_unused]] uint8_t* to = tile.expanded[v] + (begin - tile.begin) / 4 * 128;
      for (int64_t d = begin; d < end; d += depth) {
        VB block[kRows][2];
        StartBlock(tile, d, depth, block);
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          if (h == 1 && depth == kSumBlock) break;
          const uint8_t* rows = tile.rows + d + h * kSumBlock;
          if (kSource == kInt8Halves) {
#pragma GCC unroll 8
            for (int s = 0; s < kHalfSteps; ++s, w += kStepBytes) {
              LevelStep(rows + s * 4, tile.row_bytes, LoadBytes(w), LoadBytes(w + 64), block);
            }
            continue;
          }
          const uint8_t* ahead = Ahead(tile, v, w);
#pragma GCC unroll 8
          for (int s = 0; s < kHalfSteps; ++s, w += kStepBytes) {
            if (kStripPanels > 1 || v == 0) Fetch(ahead + s * 64);
            const VB levels = Xor(LoadBytes(w), flip);
            const VB low = LowLevels(levels), high = HighLevels(levels);
            if (kSource == kInt8Expanding) {
              StoreBytes(to, low), StoreBytes(to + 64, high);
              to += 128;
            }
            LevelStep(rows + s * 4, tile.row_bytes, low, high, block);
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

#if defined(LORAMUX_SIMD_AVX512)
constexpr int kTileRows = 8, kTileSizes = 5;
#define LORAMUX_TILES(tile, source) \
  {tile<8, source>, tile<4, source>, tile<3, source>, tile<2, source>, tile<1, source>}
#define LORAMUX_TILE_ROWS {8, 4, 3, 2, 1}
#else
constexpr int kTileRows = 4, kTileSizes = 4;
#define LORAMUX_TILES(tile, source) \
  {tile<4, source>, tile<3, source>, tile<2, source>, tile<1, source>}
#define LORAMUX_TILE_ROWS {4, 3, 2, 1}
#endif
constexpr TileSet<kTileSizes> kInt8Tiles = {
    LORAMUX_TILE_ROWS, LORAMUX_TILES(Int8Tile, kInt8Stored), Int8Tile<kTileRows, kInt8Expanding>,
    LORAMUX_TILES(Int8Tile, kInt8Halves), 32, kTileRows};
constexpr TileSet<kTileSizes> kInt4Tiles = {
    LORAMUX_TILE_ROWS, LORAMUX_TILES(Int4Tile, kInt4Stored), Int4Tile<kTileRows, kInt4Expanding>,
    LORAMUX_TILES(Int4Tile, kInt4Bytes), 16, kTileRows};
#undef LORAMUX_TILE_ROWS
#undef LORAMUX_TILES

template <int kSizes>
LORAMUX_INLINE void MultiplyLevels(const MultiplyArgs& args, const TileSet<kSizes>& set) {
  const Starts starts = StartsOf(args.operand);
  Tile tile = IntTile(args);
  tile.starts = starts.data;
  tile.start_stride = starts.stride;
  MultiplyStrips(args, set, tile, RowBlock(args.operand, 1));
}
LORAMUX_INLINE void MultiplyInt8(const MultiplyArgs& args) { MultiplyLevels(args, kInt8Tiles); }
LORAMUX_INLINE void MultiplyInt4(const MultiplyArgs& args) { MultiplyLevels(args, kInt4Tiles); }

}  // namespace loramux::packed::LORAMUX_PACKED_NS
