// SegmentedLora with bfloat16 adapters on AMX tiles; compiled for AVX-512 with BF16 and AMX.
//
// x and h are split into a bfloat16 (cut off, so that nothing overflows) and the rest, rounded to
// another: two products instead of one, which costs little where reading the weights costs most,
// and keeps 16 bits of them. A tile's element depends on its row of x and its column of weights
// alone, so rows that are missing from a tile change nothing for the others.
#include "cpu/lora/lora_amx_tiles.h"

namespace loramux::lora::amx {
namespace {

constexpr int64_t kTileDepth = 32;  // bfloat16 numbers in a row of a tile
// Rows of x and y are as many streams, more than a processor follows by itself: fetched this far
// ahead, in floats.
constexpr int64_t kInputsAhead = 256;
constexpr int64_t kColumnsAhead = 128;

// 32 floats as bfloat16 high and low parts.
LORAMUX_INLINE void Split(__m512 v0, __m512 v1, uint16_t* high, uint16_t* low) {
  const __m512i cut = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u));
  const __m512 h0 = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v0), cut));
  const __m512 h1 = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v1), cut));
  _mm512_storeu_si512(high, (__m512i)_mm512_cvtne2ps_pbh(h1, h0));
  _mm512_storeu_si512(low, (__m512i)_mm512_cvtne2ps_pbh(_mm512_sub_ps(v1, h1),
                                                        _mm512_sub_ps(v0, h0)));
}

// Rows of x as tiles. A few blocks of depth are split before the first is loaded: a tile that is
// loaded right after it was stored waits for the store to leave the core.
constexpr int64_t kBlocksAtOnce = 8;
struct alignas(64) SplitTiles {
  // [blocks of depth][row blocks][high, low][16][32]
  uint16_t part[kBlocksAtOnce][2][2][kTileRows * kTileDepth];
};

// x [rows, inputs] to the tiles of one row block.
LORAMUX_INLINE void SplitRows(const float* x, int64_t stride, int64_t rows, int64_t inputs,
                              int row_block, SplitTiles* to) {
  const int64_t blocks = Min(kBlocksAtOnce, CeilDiv(inputs, kTileDepth));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t block = 0; block < blocks; ++block) {
      const float* at = x + r * stride + block * kTileDepth;
      const int64_t left = inputs - block * kTileDepth;
      _mm_prefetch(reinterpret_cast<const char*>(at + kInputsAhead), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(at + kInputsAhead + 16), _MM_HINT_T0);
      auto* parts = to->part[block][row_block];
      Split(_mm512_maskz_loadu_ps(FirstLanes(left), at),
            _mm512_maskz_loadu_ps(FirstLanes(left - 16), at + 16), parts[0] + r * kTileDepth,
            parts[1] + r * kTileDepth);
    }
  }
}

// h of up to 16 rows from the tiles of their parts.
LORAMUX_INLINE void StoreSums(const float* high, const float* low, int64_t rows, int64_t width,
                              float* h, int64_t ldh) {
  const __mmask16 lanes = FirstLanes(width);
  for (int64_t r = 0; r < rows; ++r) {
    _mm512_mask_storeu_ps(h + r * ldh, lanes,
                          _mm512_add_ps(_mm512_loadu_ps(high + r * kLoraPanel),
                                        _mm512_loadu_ps(low + r * kLoraPanel)));
  }
}

// Tiles as in ConfigureShrink.
void Shrink(const ShrinkPiece& piece) {
  const int64_t width = piece.last_rank - piece.first_rank;
  const int64_t padded_in = CeilDiv(piece.in, kLoraInputMultiple) * kLoraInputMultiple;
  const int64_t line = width * 4;  // bytes of a pair of inputs
  const auto* a = static_cast<const char*>(piece.segment->a) +
                  2 * (piece.first_rank * padded_in + piece.first_in * width);
  const int64_t ldh = piece.segment->rank;
  SplitTiles x;
  alignas(64) float sums[2][kTileRows * kLoraPanel];
  int64_t rows0 = 0, rows1 = 0;
  for (int64_t row = 0; row < piece.rows; row += rows0 + rows1) {
    const int64_t last0 = rows0, last1 = rows1;
    rows0 = Min(kTileRows, piece.rows - row);
    rows1 = Min(kTileRows, piece.rows - row - rows0);
    if (rows0 != last0 || rows1 != last1) {
      ConfigureShrink(rows0, rows1, kTileDepth / 2, line);
    }
    ZeroShrinkSums(rows1);
    const float* from = piece.x + row * piece.x_stride;
    const char* weights = a;
    for (int64_t i = piece.first_in; i < piece.last_in; i += kTileDepth) {
      const int64_t block = (i - piece.first_in) / kTileDepth % kBlocksAtOnce;
      if (block == 0) {
        const int64_t left = piece.last_in - i;
        SplitRows(from + i, piece.x_stride, rows0, left, 0, &x);
        if (rows1 > 0) {
          SplitRows(from + kTileRows * piece.x_stride + i, piece.x_stride, rows1, left, 1, &x);
        }
      }
      const auto& part = x.part[block];
      if (row == 0) Fetch(weights, kTileDepth / 2 * line);
      LORAMUX_TILE_LOAD(6, weights, line);
      LORAMUX_TILE_LOAD(4, part[0][0], kLine);
      LORAMUX_TILE_DOT(tdpbf16ps, 0, 4, 6);
      LORAMUX_TILE_LOAD(5, part[0][1], kLine);
      LORAMUX_TILE_DOT(tdpbf16ps, 1, 5, 6);
      if (rows1 > 0) {
        LORAMUX_TILE_LOAD(7, part[1][0], kLine);
        LORAMUX_TILE_DOT(tdpbf16ps, 2, 7, 6);
        LORAMUX_TILE_LOAD(7, part[1][1], kLine);
        LORAMUX_TILE_DOT(tdpbf16ps, 3, 7, 6);
      }
      weights += kTileDepth / 2 * line;
    }
    float* h = piece.h + row * ldh + piece.first_rank;
    LORAMUX_TILE_STORE(0, sums[0], kLine);
    LORAMUX_TILE_STORE(1, sums[1], kLine);
    StoreSums(sums[0], sums[1], rows0, width, h, ldh);
    if (rows1 > 0) {
      LORAMUX_TILE_STORE(2, sums[0], kLine);
      LORAMUX_TILE_STORE(3, sums[1], kLine);
      StoreSums(sums[0], sums[1], rows1, width, h + kTileRows * ldh, ldh);
    }
  }
  Release();
}

// h of a piece as bfloat16 parts [rows, ld], zeros past the rank; ld is a multiple of a tile's
// depth.
struct alignas(64) SplitH {
  uint16_t high[kPieceH];
  uint16_t low[kPieceH];
};

LORAMUX_INLINE __m512 SumChunks(const ExpandPiece& piece, const float* h, __mmask16 lanes) {
  __m512 sum = _mm512_maskz_loadu_ps(lanes, h);
  for (int64_t c = 1; c < piece.chunks; ++c) {
    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, h + c * piece.chunk_stride));
  }
  return _mm512_mul_ps(sum, _mm512_set1_ps(piece.segment->scale));
}

LORAMUX_INLINE void PrepareH(const ExpandPiece& piece, int64_t ld, SplitH* to) {
  const int64_t rank = piece.segment->rank;
  for (int64_t r = 0; r < piece.rows; ++r) {
    for (int64_t k = 0; k < rank; k += kTileDepth) {
      const float* h = piece.h + r * rank + k;
      Split(SumChunks(piece, h, FirstLanes(rank - k)),
            SumChunks(piece, h + 16, FirstLanes(rank - k - 16)), to->high + r * ld + k,
            to->low + r * ld + k);
    }
  }
}

// y [rows, panels of 16 columns] += parts of h over `blocks` tiles of depth, times weights.
struct Pass {
  const uint16_t* high;  // [rows, ld]
  const uint16_t* low;
  int64_t ld;           // bytes
  const char* weights;  // of the first panel
  int64_t panel_bytes;
  int64_t block_bytes;  // of one tile of depth
  int64_t blocks;
  bool fetch;
};

LORAMUX_INLINE void FourPanels(const Pass& pass, float* y, int64_t ldy) {
  LORAMUX_TILE_LOAD(0, y, ldy);
  LORAMUX_TILE_LOAD(1, y + kLoraPanel, ldy);
  LORAMUX_TILE_LOAD(2, y + 2 * kLoraPanel, ldy);
  LORAMUX_TILE_LOAD(3, y + 3 * kLoraPanel, ldy);
  for (int64_t block = 0; block < pass.blocks; ++block) {
    const char* weights = pass.weights + block * pass.block_bytes;
    LORAMUX_TILE_LOAD(4, pass.high + block * kTileDepth, pass.ld);
    LORAMUX_TILE_LOAD(5, pass.low + block * kTileDepth, pass.ld);
    if (pass.fetch) Fetch(weights, pass.block_bytes);
    LORAMUX_TILE_LOAD(6, weights, kLine);
    LORAMUX_TILE_DOT(tdpbf16ps, 0, 4, 6);
    LORAMUX_TILE_DOT(tdpbf16ps, 0, 5, 6);
    weights += pass.panel_bytes;
    if (pass.fetch) Fetch(weights, pass.block_bytes);
    LORAMUX_TILE_LOAD(7, weights, kLine);
    LORAMUX_TILE_DOT(tdpbf16ps, 1, 4, 7);
    LORAMUX_TILE_DOT(tdpbf16ps, 1, 5, 7);
    weights += pass.panel_bytes;
    if (pass.fetch) Fetch(weights, pass.block_bytes);
    LORAMUX_TILE_LOAD(6, weights, kLine);
    LORAMUX_TILE_DOT(tdpbf16ps, 2, 4, 6);
    LORAMUX_TILE_DOT(tdpbf16ps, 2, 5, 6);
    weights += pass.panel_bytes;
    if (pass.fetch) Fetch(weights, pass.block_bytes);
    LORAMUX_TILE_LOAD(7, weights, kLine);
    LORAMUX_TILE_DOT(tdpbf16ps, 3, 4, 7);
    LORAMUX_TILE_DOT(tdpbf16ps, 3, 5, 7);
  }
  LORAMUX_TILE_STORE(0, y, ldy);
  LORAMUX_TILE_STORE(1, y + kLoraPanel, ldy);
  LORAMUX_TILE_STORE(2, y + 2 * kLoraPanel, ldy);
  LORAMUX_TILE_STORE(3, y + 3 * kLoraPanel, ldy);
}

LORAMUX_INLINE void OnePanel(const Pass& pass, float* y, int64_t ldy) {
  LORAMUX_TILE_LOAD(0, y, ldy);
  for (int64_t block = 0; block < pass.blocks; ++block) {
    const char* weights = pass.weights + block * pass.block_bytes;
    if (pass.fetch) Fetch(weights, pass.block_bytes);
    LORAMUX_TILE_LOAD(4, pass.high + block * kTileDepth, pass.ld);
    LORAMUX_TILE_LOAD(5, pass.low + block * kTileDepth, pass.ld);
    LORAMUX_TILE_LOAD(6, weights, kLine);
    LORAMUX_TILE_DOT(tdpbf16ps, 0, 4, 6);
    LORAMUX_TILE_DOT(tdpbf16ps, 0, 5, 6);
  }
  LORAMUX_TILE_STORE(0, y, ldy);
}

// The last panel where it is narrower in y than in memory: what lies beside y belongs to others.
LORAMUX_INLINE void NarrowPanel(const Pass& pass, int64_t rows, int64_t columns, float* y,
                                int64_t stride) {
  alignas(64) float whole[kTileRows * kLoraPanel] = {};
  const __mmask16 lanes = FirstLanes(columns);
  for (int64_t r = 0; r < rows; ++r) {
    _mm512_store_ps(whole + r * kLoraPanel, _mm512_maskz_loadu_ps(lanes, y + r * stride));
  }
  OnePanel(pass, whole, kLine);
  for (int64_t r = 0; r < rows; ++r) {
    _mm512_mask_storeu_ps(y + r * stride, lanes, _mm512_load_ps(whole + r * kLoraPanel));
  }
}

// Tiles 0 to 3: y. 4 and 5: h. 6 and 7: weights of `pairs` pairs of ranks.
void RunPass(const ExpandPiece& piece, Pass pass, int64_t row, int64_t pairs) {
  const int64_t rows = Min(kTileRows, piece.rows - row);
  TileConfig config;
  for (int tile = 0; tile < 4; ++tile) config.Set(tile, rows, kLine);
  for (int tile = 4; tile < 6; ++tile) config.Set(tile, rows, pairs * 4);
  for (int tile = 6; tile < 8; ++tile) config.Set(tile, pairs, kLine);
  config.Load();
  float* y = piece.y + row * piece.y_stride;
  const int64_t ldy = piece.y_stride * static_cast<int64_t>(sizeof(float));
  int64_t column = piece.first;
  for (; column + 4 * kLoraPanel <= piece.last; column += 4 * kLoraPanel) {
    for (int64_t r = 0; r < rows; ++r) {
      const float* ahead = y + r * piece.y_stride + column + kColumnsAhead;
      for (int64_t c = 0; c < 4 * kLoraPanel; c += 16) {
        _mm_prefetch(reinterpret_cast<const char*>(ahead + c), _MM_HINT_T0);
      }
    }
    FourPanels(pass, y + column, ldy);
    pass.weights += 4 * pass.panel_bytes;
  }
  for (; column + kLoraPanel <= piece.last; column += kLoraPanel) {
    OnePanel(pass, y + column, ldy);
    pass.weights += pass.panel_bytes;
  }
  if (column < piece.last) NarrowPanel(pass, rows, piece.last - column, y + column, piece.y_stride);
}

void Expand(const ExpandPiece& piece) {
  const int64_t pairs = CeilDiv(piece.segment->rank, 2);
  const int64_t blocks = CeilDiv(pairs, kTileDepth / 2);
  const int64_t whole = pairs / (kTileDepth / 2);
  const int64_t rest = pairs % (kTileDepth / 2);
  const int64_t ld = blocks * kTileDepth;
  SplitH h;
  PrepareH(piece, ld, &h);
  Pass pass;
  pass.ld = ld * 2;
  pass.panel_bytes = pairs * kLine;
  for (int64_t row = 0; row < piece.rows; row += kTileRows) {
    pass.fetch = row == 0;
    pass.high = h.high + row * ld;
    pass.low = h.low + row * ld;
    pass.weights =
        static_cast<const char*>(piece.segment->b) + piece.first / kLoraPanel * pass.panel_bytes;
    if (whole > 0) {
      pass.block_bytes = kTileDepth / 2 * kLine;
      pass.blocks = whole;
      RunPass(piece, pass, row, kTileDepth / 2);
    }
    if (rest > 0) {
      pass.high += whole * kTileDepth;
      pass.low += whole * kTileDepth;
      pass.weights += whole * kTileDepth / 2 * kLine;
      pass.block_bytes = rest * kLine;
      pass.blocks = 1;
      RunPass(piece, pass, row, rest);
    }
  }
  Release();
}

}  // namespace

const LoraKernels kBf16Kernels = {Shrink, Expand};

}  // namespace loramux::lora::amx
