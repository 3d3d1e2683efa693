// SegmentedLora with int8 adapters for one instruction set: levels are widened to float32, which is
// exact, and everything else is float32. A lane's four sums (of elements 0, 1, 2 and 3 modulo 4)
// are the same chains of fused multiply-adds whatever tile it is part of.
#pragma once

#include "cpu/lora/lora_kernels.h"
#include "cpu/simd.h"

namespace loramux::LORAMUX_SIMD_NS {

// Rows of a tile of one vector of weights: four sums each.
constexpr int kI8TileRows = kLanes >= 16 ? 4 : kLanes >= 8 ? 2 : 1;
constexpr int64_t kFetchAheadQuads = lora::kFetchAhead / 4;

// Level j of each lane's four.
LORAMUX_INLINE VF QuadLevel(VU quads, int j) {
  return __builtin_convertvector((VI)(quads << (24 - 8 * j)) >> 24, VF);
}

LORAMUX_INLINE VU LoadQuads(const float* quads, int lanes) {
  return (VU)(lanes >= kLanes ? Load(quads) : LoadN(quads, lanes));
}

LORAMUX_INLINE VF SumOfFour(const VF (&sums)[4]) {
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Sums over `inputs` inputs of R rows for one vector of ranks.
template <int R>
LORAMUX_INLINE void ShrinkTileI8(const float* x, int64_t ldx, int64_t inputs, const float* a,
                                 int64_t width, int lanes, VF scale, float* h, int64_t ldh) {
  VF acc[R][4];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[r][j] = Zero();
  }
  const auto step = [&](int64_t i, int count) __attribute__((always_inline)) {
    const float* at = a + i / 4 * width;
    __builtin_prefetch(at + kFetchAheadQuads, 0, 3);
    const VU quads = LoadQuads(at, lanes);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      if (j >= count) break;
      const VF level = QuadLevel(quads, j);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[r][j] = Fma(Set1(x[r * ldx + i + j]), level, acc[r][j]);
    }
  };
  int64_t i = 0;
  for (; i + 4 <= inputs; i += 4) step(i, 4);
  if (i < inputs) step(i, static_cast<int>(inputs - i));
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) StoreN(h + r * ldh, SumOfFour(acc[r]) * scale, lanes);
}

template <int R>
inline void ShrinkRowsI8(const lora::ShrinkPiece& piece, int64_t row, const float* a, int64_t width,
                         int lanes, VF scale, float* h) {
  const int64_t ldx = piece.x_stride;
  const int64_t ldh = piece.segment->rank;
  const int64_t inputs = piece.last_in - piece.first_in;
  const float* x = piece.x + piece.first_in;
  for (; row + R <= piece.rows; row += R) {
    ShrinkTileI8<R>(x + row * ldx, ldx, inputs, a, width, lanes, scale, h + row * ldh, ldh);
  }
  if constexpr (R > 1) ShrinkRowsI8<R / 2>(piece, row, a, width, lanes, scale, h);
}

inline void ShrinkI8(const lora::ShrinkPiece& piece) {
  const int64_t rank = piece.segment->rank;
  const int64_t width = piece.last_rank - piece.first_rank;
  const int64_t padded_in = CeilDiv(piece.in, kLoraInputMultipleI8) * kLoraInputMultipleI8;
  const float* words = static_cast<const float*>(piece.segment->a);
  const float* a = words + (piece.first_rank * padded_in + piece.first_in * width) / 4;
  const float* scales =
      words + rank * padded_in / 4 + piece.first_in / kLoraGroup * rank + piece.first_rank;
  for (int64_t first = 0; first < width; first += kLanes) {
    const int lanes = static_cast<int>(MinOf<int64_t>(kLanes, width - first));
    ShrinkRowsI8<kI8TileRows>(piece, 0, a + first, width, lanes, LoadN(scales + first, lanes),
                              piece.h + piece.first_rank + first);
  }
}

// y of R rows and one vector of columns, `columns` of them in y.
template <int R>
LORAMUX_INLINE void ExpandTileI8(const float* h, int64_t ldh, const float* b, int64_t quads,
                                 float* y, int64_t ldy, int columns) {
  VF acc[R][4];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[r][j] = Zero();
  }
  for (int64_t q = 0; q < quads; ++q) {
    const float* at = b + q * kLoraPanel;
    __builtin_prefetch(at + kFetchAheadQuads, 0, 3);
    const VU words = (VU)Load(at);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const VF level = QuadLevel(words, j);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[r][j] = Fma(Set1(h[r * ldh + 4 * q + j]), level, acc[r][j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    float* at = y + r * ldy;
    if (columns >= kLanes) {
      Store(at, Load(at) + SumOfFour(acc[r]));
    } else {
      StoreN(at, LoadN(at, columns) + SumOfFour(acc[r]), columns);
    }
  }
}

template <int R>
inline void ExpandRowsI8(const lora::ExpandPiece& piece, const float* h, int64_t ldh, int64_t row,
                         const float* b, int64_t first, int columns) {
  for (; row + R <= piece.rows; row += R) {
    ExpandTileI8<R>(h + row * ldh, ldh, b, ldh / 4, piece.y + row * piece.y_stride + first,
                    piece.y_stride, columns);
  }
  if constexpr (R > 1) ExpandRowsI8<R / 2>(piece, h, ldh, row, b, first, columns);
}

inline void ExpandI8(const lora::ExpandPiece& piece) {
  const int64_t rank = piece.segment->rank;
  const int64_t quads = CeilDiv(rank, 4);
  const int64_t ldh = 4 * quads;
  const int64_t panels = CeilDiv(piece.out, kLoraPanel);
  const float* words = static_cast<const float*>(piece.segment->b);
  const float* scales = words + panels * quads * kLoraPanel;
  alignas(64) float h[lora::kPieceH];
  for (int64_t first = piece.first; first < piece.last;) {
    const int64_t group = first / kLoraGroup;
    const int64_t last = MinOf(piece.last, (group + 1) * kLoraGroup);
    for (int64_t r = 0; r < piece.rows; ++r) {
      for (int64_t k = 0; k < ldh; ++k) {
        float sum = 0.0f;
        if (k < rank) {
          const float* from = piece.h + r * rank + k;
          sum = from[0];
          for (int64_t c = 1; c < piece.chunks; ++c) sum += from[c * piece.chunk_stride];
        }
        h[r * ldh + k] = sum * piece.segment->scale * scales[group * ldh + k];
      }
    }
    for (; first < last; first += kLoraPanel) {
      const float* b = words + first * quads;
      const int64_t columns = MinOf<int64_t>(kLoraPanel, last - first);
      for (int64_t c = 0; c < columns; c += kLanes) {
        ExpandRowsI8<kI8TileRows>(piece, h, ldh, 0, b + c, first + c,
                                  static_cast<int>(MinOf<int64_t>(kLanes, columns - c)));
      }
    }
  }
}

}  // namespace loramux::LORAMUX_SIMD_NS
