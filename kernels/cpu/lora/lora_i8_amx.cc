// SegmentedLora with int8 adapters on AMX tiles, and on VNNI where there are few rows; compiled for
// AVX-512 with VNNI and AMX.
//
// Levels are multiplied as they lie in memory. x and h become numbers of 16 bits relative to their
// row's largest in the chunk, and those become two bytes: 256 * high + low. Sums of integers are
// exact, so tiles and vectors give the same bits, and a row's never depend on which it took.
#include "cpu/lora/lora_amx_tiles.h"

namespace loramux::lora::amx {
namespace {

constexpr int64_t kTileDepth = 64;  // bytes in a row of a tile
constexpr int64_t kRowsAtOnce = 2 * kTileRows;
// Rows of a piece at most that vectors multiply: a tile of a few rows takes as long to load as a
// full one.
constexpr int64_t kVectorRows = 4;
constexpr float kFixedMax = 32767.0f;
constexpr uint32_t kInfinityBits = 0x7f800000u;
constexpr int64_t kFloat = static_cast<int64_t>(sizeof(float));
constexpr int64_t kColumnsAhead = 64;  // of y, floats

// x [n] as bytes, zeros up to a multiple of a tile's depth. Gives the scale: x = scale * (256 *
// high + low); NaN where x has a number that is not finite. What lies at `next` is fetched.
LORAMUX_INLINE float FixRow(const float* x, int64_t n, const float* next, int8_t* high,
                            uint8_t* low) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i best[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) best[j] = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += kTileDepth) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      _mm_prefetch(reinterpret_cast<const char*>(next + i + 16 * j), _MM_HINT_T0);
      const __m512i bits =
          _mm512_maskz_loadu_epi32(FirstLanes(n - i - 16 * j), x + i + 16 * j);
      best[j] = _mm512_max_epu32(best[j], _mm512_and_si512(bits, magnitude));
    }
  }
  const uint32_t bits = _mm512_reduce_max_epu32(_mm512_max_epu32(
      _mm512_max_epu32(best[0], best[1]), _mm512_max_epu32(best[2], best[3])));
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof(largest));
  float scale = __builtin_nanf("");
  float inverse = 0.0f;
  if (bits < kInfinityBits) {
    const bool zero = largest < kLoraSmallestI8;
    scale = zero ? 0.0f : largest / kFixedMax;
    inverse = zero ? 0.0f : kFixedMax / largest;
  }
  const __m512 by = _mm512_set1_ps(inverse);
  const __m512i low_byte = _mm512_set1_epi16(0xff);
  // Packing leaves fours of the four vectors in turn in each quarter of 128 bits.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (int64_t i = 0; i < n; i += kTileDepth) {
    __m512i v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      v[j] = _mm512_cvtps_epi32(_mm512_mul_ps(
          _mm512_maskz_loadu_ps(FirstLanes(n - i - 16 * j), x + i + 16 * j), by));
    }
    const __m512i first = _mm512_packs_epi32(v[0], v[1]);
    const __m512i second = _mm512_packs_epi32(v[2], v[3]);
    const __m512i highs =
        _mm512_packs_epi16(_mm512_srai_epi16(first, 8), _mm512_srai_epi16(second, 8));
    const __m512i lows = _mm512_packus_epi16(_mm512_and_si512(first, low_byte),
                                             _mm512_and_si512(second, low_byte));
    _mm512_store_si512(high + i, _mm512_permutexvar_epi32(order, highs));
    _mm512_store_si512(low + i, _mm512_permutexvar_epi32(order, lows));
  }
  return scale;
}

// scale * (256 * high + low) of sixteen sums.
LORAMUX_INLINE __m512 FromSums(__m512i high, __m512i low, __m512 scale) {
  return _mm512_mul_ps(
      _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(256.0f), _mm512_cvtepi32_ps(low)),
      scale);
}

// Rows of bytes and their scales.
struct FixedRows {
  const int8_t* high;
  const uint8_t* low;
  int64_t ld;
  const float* scale;

  inline __attribute__((always_inline)) FixedRows From(int64_t row, int64_t depth) const {
    return {high + row * ld + depth, low + row * ld + depth, ld, scale + row};
  }
};

template <int R>
struct VectorSums {
  __m512i high[R], low[R];

  // R rows with 16 columns of weights: `quads` lines of `line` bytes, fours of each column. High
  // bytes are taken as unsigned ones, 128 more than they are, which is subtracted again.
  inline __attribute__((always_inline)) void Take(const FixedRows& x, const char* weights,
                                                  int64_t quads, int64_t line, __mmask16 lanes) {
    const __m512i bias = _mm512_set1_epi8(static_cast<char>(0x80));
    __m512i weight_sum = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) high[r] = low[r] = _mm512_setzero_si512();
    for (int64_t q = 0; q < quads; ++q) {
      _mm_prefetch(weights + kFetchAhead, _MM_HINT_T0);
      const __m512i w = _mm512_maskz_loadu_epi32(lanes, weights);
      weight_sum = _mm512_dpbusd_epi32(weight_sum, bias, w);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        int32_t four[2];
        __builtin_memcpy(&four[0], x.high + r * x.ld + 4 * q, sizeof(int32_t));
        __builtin_memcpy(&four[1], x.low + r * x.ld + 4 * q, sizeof(int32_t));
        high[r] = _mm512_dpbusd_epi32(high[r], _mm512_xor_si512(_mm512_set1_epi32(four[0]), bias),
                                      w);
        low[r] = _mm512_dpbusd_epi32(low[r], _mm512_set1_epi32(four[1]), w);
      }
      weights += line;
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) high[r] = _mm512_sub_epi32(high[r], weight_sum);
  }
};

struct alignas(64) ShrinkRows {
  // A line more than a chunk: else all rows were in a few sets of the cache.
  static constexpr int64_t kStride = kChunkInputs + kLine;
  int8_t high[kRowsAtOnce * kStride];
  uint8_t low[kRowsAtOnce * kStride];
  float scale[kRowsAtOnce];
};

// One chunk of inputs and one panel of ranks.
struct ShrinkWork {
  const char* weights;
  int64_t line;   // bytes of four inputs
  int64_t quads;  // of the chunk, a multiple of a tile's
  __m512 scale;
  __mmask16 lanes;
};

template <int R>
LORAMUX_INLINE void ShrinkVectors(const ShrinkWork& work, const FixedRows& x, int64_t rows,
                                  float* h, int64_t ldh) {
  int64_t row = 0;
  for (; row + R <= rows; row += R) {
    const FixedRows from = x.From(row, 0);
    VectorSums<R> sums;
    sums.Take(from, work.weights, work.quads, work.line, work.lanes);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(from.scale[r]), work.scale);
      _mm512_mask_storeu_ps(h + (row + r) * ldh, work.lanes,
                            FromSums(sums.high[r], sums.low[r], scale));
    }
  }
  if constexpr (R > 1) {
    if (row < rows) ShrinkVectors<R / 2>(work, x.From(row, 0), rows - row, h + row * ldh, ldh);
  }
}

using TileSums = int32_t[kTileRows * kLoraPanel];

LORAMUX_INLINE void StoreH(const ShrinkWork& work, const TileSums& high, const TileSums& low,
                           const float* scales, int64_t rows, float* h, int64_t ldh) {
  for (int64_t r = 0; r < rows; ++r) {
    const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(scales[r]), work.scale);
    _mm512_mask_storeu_ps(h + r * ldh, work.lanes,
                          FromSums(_mm512_loadu_si512(high + r * kLoraPanel),
                                   _mm512_loadu_si512(low + r * kLoraPanel), scale));
  }
}

// Tiles as in ConfigureShrink.
LORAMUX_INLINE void ShrinkTiles(const ShrinkWork& work, const FixedRows& x, int64_t rows,
                                bool fetch, float* h, int64_t ldh) {
  const int64_t rows0 = Min(kTileRows, rows);
  const int64_t rows1 = rows - rows0;
  ConfigureShrink(rows0, rows1, kTileDepth / 4, work.line);
  ZeroShrinkSums(rows1);
  const FixedRows second = x.From(kTileRows, 0);
  const char* weights = work.weights;
  for (int64_t q = 0; q < work.quads; q += kTileDepth / 4) {
    const int64_t bytes = kTileDepth / 4 * work.line;
    if (fetch) Fetch(weights, bytes);
    LORAMUX_TILE_LOAD(6, weights, work.line);
    LORAMUX_TILE_LOAD(4, x.high + 4 * q, x.ld);
    LORAMUX_TILE_DOT(tdpbssd, 0, 4, 6);
    LORAMUX_TILE_LOAD(5, x.low + 4 * q, x.ld);
    LORAMUX_TILE_DOT(tdpbusd, 1, 5, 6);
    if (rows1 > 0) {
      LORAMUX_TILE_LOAD(7, second.high + 4 * q, x.ld);
      LORAMUX_TILE_DOT(tdpbssd, 2, 7, 6);
      LORAMUX_TILE_LOAD(7, second.low + 4 * q, x.ld);
      LORAMUX_TILE_DOT(tdpbusd, 3, 7, 6);
    }
    weights += bytes;
  }
  alignas(64) TileSums sums[2];
  LORAMUX_TILE_STORE(0, sums[0], kLine);
  LORAMUX_TILE_STORE(1, sums[1], kLine);
  StoreH(work, sums[0], sums[1], x.scale, rows0, h, ldh);
  if (rows1 > 0) {
    LORAMUX_TILE_STORE(2, sums[0], kLine);
    LORAMUX_TILE_STORE(3, sums[1], kLine);
    StoreH(work, sums[0], sums[1], second.scale, rows1, h + kTileRows * ldh, ldh);
  }
}

void Shrink(const ShrinkPiece& piece) {
  const int64_t rank = piece.segment->rank;
  const int64_t width = piece.last_rank - piece.first_rank;
  const int64_t padded_in = CeilDiv(piece.in, kLoraInputMultipleI8) * kLoraInputMultipleI8;
  const int64_t inputs = piece.last_in - piece.first_in;
  const auto* a = static_cast<const char*>(piece.segment->a);
  ShrinkWork work;
  work.weights = a + piece.first_rank * padded_in + piece.first_in * width;
  work.line = 4 * width;
  work.quads = CeilDiv(inputs, kTileDepth) * (kTileDepth / 4);
  work.lanes = FirstLanes(width);
  work.scale = _mm512_maskz_loadu_ps(
      work.lanes,
      a + rank * padded_in + kFloat * (piece.first_in / kLoraGroup * rank + piece.first_rank));
  ShrinkRows x;
  const FixedRows fixed = {x.high, x.low, ShrinkRows::kStride, x.scale};
  for (int64_t row = 0; row < piece.rows; row += kRowsAtOnce) {
    const int64_t rows = Min(kRowsAtOnce, piece.rows - row);
    for (int64_t r = 0; r < rows; ++r) {
      const float* from = piece.x + (row + r) * piece.x_stride + piece.first_in;
      x.scale[r] = FixRow(from, inputs, from + piece.x_stride, x.high + r * ShrinkRows::kStride,
                          x.low + r * ShrinkRows::kStride);
    }
    float* h = piece.h + row * rank + piece.first_rank;
    if (rows <= kVectorRows) {
      ShrinkVectors<kVectorRows>(work, fixed, rows, h, rank);
    } else {
      ShrinkTiles(work, fixed, rows, row == 0, h, rank);
    }
  }
  if (piece.rows > kVectorRows) Release();
}

// h of a piece in one group of columns: [rows, ld], zeros past the rank; ld is a multiple of a
// tile's depth.
struct alignas(64) ExpandRows {
  int8_t high[kPieceH];
  uint8_t low[kPieceH];
  float scale[kRowBlockNarrow];
};

LORAMUX_INLINE void PrepareH(const ExpandPiece& piece, const float* scales, int64_t ld,
                             ExpandRows* to) {
  const int64_t rank = piece.segment->rank;
  const __m512 weight = _mm512_set1_ps(piece.segment->scale);
  alignas(64) float row[kMaxLoraRank];
  for (int64_t r = 0; r < piece.rows; ++r) {
    for (int64_t k = 0; k < rank; k += 16) {
      const float* h = piece.h + r * rank + k;
      const __mmask16 lanes = FirstLanes(rank - k);
      __m512 sum = _mm512_maskz_loadu_ps(lanes, h);
      for (int64_t c = 1; c < piece.chunks; ++c) {
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, h + c * piece.chunk_stride));
      }
      sum = _mm512_mul_ps(sum, weight);
      _mm512_store_ps(row + k, _mm512_mul_ps(sum, _mm512_maskz_loadu_ps(lanes, scales + k)));
    }
    to->scale[r] = FixRow(row, rank, row, to->high + r * ld, to->low + r * ld);
  }
}

// y [rows, columns] += sums of h over quads of ranks: up to 16 of them, or a multiple of 16.
struct ExpandWork {
  const char* weights;  // of the first column
  int64_t panel_bytes;
  int64_t quads;
  int64_t columns;
};

LORAMUX_INLINE void AddToY(__m512i high, __m512i low, float scale, __mmask16 lanes, float* y) {
  _mm512_mask_storeu_ps(y, lanes,
                        _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, y),
                                      FromSums(high, low, _mm512_set1_ps(scale))));
}

template <int R>
LORAMUX_INLINE void ExpandVectors(const ExpandWork& work, const FixedRows& h, int64_t rows,
                                  float* y, int64_t ldy) {
  int64_t row = 0;
  for (; row + R <= rows; row += R) {
    const FixedRows from = h.From(row, 0);
    const char* weights = work.weights;
    for (int64_t column = 0; column < work.columns; column += kLoraPanel) {
      VectorSums<R> sums;
      sums.Take(from, weights, work.quads, kLine, 0xffff);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        AddToY(sums.high[r], sums.low[r], from.scale[r], FirstLanes(work.columns - column),
               y + (row + r) * ldy + column);
      }
      weights += work.panel_bytes;
    }
  }
  if constexpr (R > 1) {
    if (row < rows) ExpandVectors<R / 2>(work, h.From(row, 0), rows - row, y + row * ldy, ldy);
  }
}

// Tiles 0 to 3: sums (high and low bytes of two panels). 4 and 5: h. 6 and 7: weights.
LORAMUX_INLINE void ExpandTiles(const ExpandWork& work, const FixedRows& h, int64_t rows,
                                bool fetch, float* y, int64_t ldy) {
  const int64_t tile_quads = Min(kTileDepth / 4, work.quads);
  TileConfig config;
  for (int tile = 0; tile < 4; ++tile) config.Set(tile, rows, kLine);
  for (int tile = 4; tile < 6; ++tile) config.Set(tile, rows, 4 * tile_quads);
  for (int tile = 6; tile < 8; ++tile) config.Set(tile, tile_quads, kLine);
  config.Load();
  alignas(64) TileSums sums[4];
  const char* panel = work.weights;
  for (int64_t column = 0; column < work.columns; column += 2 * kLoraPanel) {
    const bool two = column + kLoraPanel < work.columns;
    for (int64_t r = 0; r < rows; ++r) {
      const float* ahead = y + r * ldy + column + kColumnsAhead;
      _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(ahead + 16), _MM_HINT_T0);
    }
    LORAMUX_TILE_ZERO(0);
    LORAMUX_TILE_ZERO(1);
    LORAMUX_TILE_ZERO(2);
    LORAMUX_TILE_ZERO(3);
    for (int64_t q = 0; q < work.quads; q += tile_quads) {
      const char* weights = panel + q * kLine;
      if (fetch) Fetch(weights, tile_quads * kLine);
      LORAMUX_TILE_LOAD(4, h.high + 4 * q, h.ld);
      LORAMUX_TILE_LOAD(5, h.low + 4 * q, h.ld);
      LORAMUX_TILE_LOAD(6, weights, kLine);
      LORAMUX_TILE_DOT(tdpbssd, 0, 4, 6);
      LORAMUX_TILE_DOT(tdpbusd, 1, 5, 6);
      if (two) {
        weights += work.panel_bytes;
        if (fetch) Fetch(weights, tile_quads * kLine);
        LORAMUX_TILE_LOAD(7, weights, kLine);
        LORAMUX_TILE_DOT(tdpbssd, 2, 4, 7);
        LORAMUX_TILE_DOT(tdpbusd, 3, 5, 7);
      }
    }
    LORAMUX_TILE_STORE(0, sums[0], kLine);
    LORAMUX_TILE_STORE(1, sums[1], kLine);
    if (two) {
      LORAMUX_TILE_STORE(2, sums[2], kLine);
      LORAMUX_TILE_STORE(3, sums[3], kLine);
    }
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t p = 0; p < (two ? 2 : 1); ++p) {
        const int64_t at = column + p * kLoraPanel;
        AddToY(_mm512_load_si512(sums[2 * p] + r * kLoraPanel),
               _mm512_load_si512(sums[2 * p + 1] + r * kLoraPanel), h.scale[r],
               FirstLanes(work.columns - at), y + r * ldy + at);
      }
    }
    panel += 2 * work.panel_bytes;
  }
}

void Expand(const ExpandPiece& piece) {
  const int64_t quads = CeilDiv(piece.segment->rank, 4);
  const int64_t whole = quads / (kTileDepth / 4) * (kTileDepth / 4);
  const int64_t panels = CeilDiv(piece.out, kLoraPanel);
  const int64_t ld = CeilDiv(4 * quads, kTileDepth) * kTileDepth;
  const auto* b = static_cast<const char*>(piece.segment->b);
  const auto* scales = reinterpret_cast<const float*>(b + panels * quads * kLine);
  ExpandRows memory;
  const FixedRows h = {memory.high, memory.low, ld, memory.scale};
  for (int64_t first = piece.first; first < piece.last;) {
    const int64_t group = first / kLoraGroup;
    const int64_t last = Min(piece.last, (group + 1) * kLoraGroup);
    PrepareH(piece, scales + group * 4 * quads, ld, &memory);
    // Whole tiles of depth, then what is left of it.
    for (int64_t from = 0; from < quads; from = from < whole ? whole : quads) {
      ExpandWork work;
      work.panel_bytes = quads * kLine;
      work.weights = b + first / kLoraPanel * work.panel_bytes + from * kLine;
      work.quads = from < whole ? whole : quads - whole;
      work.columns = last - first;
      float* y = piece.y + first;
      if (piece.rows <= kVectorRows) {
        ExpandVectors<kVectorRows>(work, h.From(0, 4 * from), piece.rows, y, piece.y_stride);
        continue;
      }
      for (int64_t row = 0; row < piece.rows; row += kTileRows) {
        ExpandTiles(work, h.From(row, 4 * from), Min(kTileRows, piece.rows - row), row == 0,
                    y + row * piece.y_stride, piece.y_stride);
      }
    }
    first = last;
  }
  if (piece.rows > kVectorRows) Release();
}

}  // namespace

const LoraKernels kI8Kernels = {Shrink, Expand};

}  // namespace loramux::lora::amx
