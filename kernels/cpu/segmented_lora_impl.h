// SegmentedLora with float32 adapters for one instruction set. The order in which an output
// element is added up is fixed: register tiles only decide how many elements are in flight, never
// an element's order.
#pragma once

#include "cpu/lora/lora_kernels.h"
#include "cpu/simd.h"

namespace loramux::LORAMUX_SIMD_NS {

using lora::kRowBlock;

constexpr int64_t kShrinkChunk = 1024;  // inputs per partial dot product: rows and A stay in L1
constexpr int64_t kExpandGroup = 128;   // outputs accumulated together
constexpr int kDecodeRanks = 8;         // chains in flight for a single row

// h[r, k] (+)= dot(x[r, :len], a[k, :len]) for R rows and K ranks.
template <int R, int K>
LORAMUX_INLINE void ShrinkTile(const float* x, int64_t ldx, const float* a, int64_t lda,
                               int64_t len, bool first, float* h, int64_t ldh) {
  VF acc[R][K];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) acc[r][k] = Zero();
  }
  const auto step = [&](auto load, int64_t i) __attribute__((always_inline)) {
    VF xv[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) xv[r] = load(x + r * ldx + i);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const VF av = load(a + k * lda + i);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[r][k] = Fma(xv[r], av, acc[r][k]);
    }
  };
  int64_t i = 0;
  for (; i + kLanes <= len; i += kLanes) {
    step([](const float* p) __attribute__((always_inline)) { return Load(p); }, i);
  }
  if (i < len) {
    const int tail = static_cast<int>(len - i);
    step([tail](const float* p) __attribute__((always_inline)) { return LoadN(p, tail); }, i);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const float sum = ReduceAdd(acc[r][k]);
      float* out = h + r * ldh + k;
      *out = first ? sum : *out + sum;
    }
  }
}

template <int R, int K>
LORAMUX_INLINE int64_t ShrinkRanks(const float* x, int64_t ldx, const float* a, int64_t lda,
                                   int64_t len, bool first, float* h, int64_t ldh, int64_t k,
                                   int64_t ranks) {
  for (; k + K <= ranks; k += K) {
    ShrinkTile<R, K>(x, ldx, a + k * lda, lda, len, first, h + k, ldh);
  }
  return k;
}

inline void ShrinkF32(const lora::ShrinkPiece& piece) {
  const int64_t in = piece.in;
  const int64_t rows = piece.rows;
  const int64_t ranks = piece.last_rank - piece.first_rank;
  const int64_t ldx = piece.x_stride;
  const int64_t ldh = piece.segment->rank;
  const float scale = piece.segment->scale;
  const float* x = piece.x;
  const float* a = static_cast<const float*>(piece.segment->a) + piece.first_rank * in;
  float* h = piece.h + piece.first_rank;

  for (int64_t c = 0; c < in; c += kShrinkChunk) {
    const int64_t len = MinOf(kShrinkChunk, in - c);
    const bool first = c == 0;
    int64_t r = 0;
    for (; r + kTileRows <= rows; r += kTileRows) {
      const float* xr = x + r * ldx + c;
      float* hr = h + r * ldh;
      int64_t k =
          ShrinkRanks<kTileRows, kTileCols>(xr, ldx, a + c, in, len, first, hr, ldh, 0, ranks);
      ShrinkRanks<kTileRows, 1>(xr, ldx, a + c, in, len, first, hr, ldh, k, ranks);
    }
    for (; r < rows; ++r) {
      const float* xr = x + r * ldx + c;
      float* hr = h + r * ldh;
      int64_t k = ShrinkRanks<1, kDecodeRanks>(xr, ldx, a + c, in, len, first, hr, ldh, 0, ranks);
      ShrinkRanks<1, 1>(xr, ldx, a + c, in, len, first, hr, ldh, k, ranks);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < ranks; ++k) h[r * ldh + k] *= scale;
  }
}

// acc[r, :] = sum over k of h[r, k] * bt[k, :] for R rows and C vectors of columns; the last
// vector has `tail` lanes when tail > 0.
template <int R, int C>
LORAMUX_INLINE void ExpandTile(const float* h, int64_t ldh, const float* bt, int64_t ldb,
                               int64_t depth, float* acc_rows, int tail) {
  VF acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[r][c] = Zero();
  }
  for (int64_t k = 0; k < depth; ++k) {
    VF b[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const float* p = bt + k * ldb + c * kLanes;
      b[c] = C == 1 && tail > 0 ? LoadN(p, tail) : Load(p);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const VF hv = Set1(h[r * ldh + k]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[r][c] = Fma(hv, b[c], acc[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) Store(acc_rows + r * kExpandGroup + c * kLanes, acc[r][c]);
  }
}

template <int R, int C>
LORAMUX_INLINE int64_t ExpandCols(const float* h, int64_t ldh, const float* bt, int64_t ldb,
                                  int64_t depth, float* acc, int64_t col, int64_t cols) {
  for (; col + C * kLanes <= cols; col += C * kLanes) {
    ExpandTile<R, C>(h, ldh, bt + col, ldb, depth, acc + col, 0);
  }
  if (C == 1 && col < cols) {
    ExpandTile<R, 1>(h, ldh, bt + col, ldb, depth, acc + col, static_cast<int>(cols - col));
    col = cols;
  }
  return col;
}

// acc [rows, kExpandGroup] = h [rows, depth] * bt [depth, cols], cols <= kExpandGroup.
inline void ExpandGroup(const float* h, int64_t ldh, int64_t rows, const float* bt, int64_t ldb,
                        int64_t depth, float* acc, int64_t cols) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    const float* hr = h + r * ldh;
    float* ar = acc + r * kExpandGroup;
    int64_t c = ExpandCols<kTileRows, kTileCols>(hr, ldh, bt, ldb, depth, ar, 0, cols);
    ExpandCols<kTileRows, 1>(hr, ldh, bt, ldb, depth, ar, c, cols);
  }
  for (; r < rows; ++r) {
    const float* hr = h + r * ldh;
    float* ar = acc + r * kExpandGroup;
    int64_t c = ExpandCols<1, 8>(hr, ldh, bt, ldb, depth, ar, 0, cols);
    ExpandCols<1, 1>(hr, ldh, bt, ldb, depth, ar, c, cols);
  }
}

inline void ExpandF32(const lora::ExpandPiece& piece) {
  const int64_t rank = piece.segment->rank;
  const int64_t rows = piece.rows;
  const float* bt = static_cast<const float*>(piece.segment->b);
  alignas(64) float acc[kRowBlock * kExpandGroup];

  for (int64_t c0 = piece.first; c0 < piece.last; c0 += kExpandGroup) {
    const int64_t cols = MinOf(kExpandGroup, piece.last - c0);
    ExpandGroup(piece.h, rank, rows, bt + c0, piece.out, rank, acc, cols);
    for (int64_t r = 0; r < rows; ++r) {
      float* yr = piece.y + r * piece.y_stride + c0;
      const float* ar = acc + r * kExpandGroup;
      int64_t c = 0;
      for (; c + kLanes <= cols; c += kLanes) Store(yr + c, Load(yr + c) + Load(ar + c));
      if (c < cols) {
        const int tail = static_cast<int>(cols - c);
        StoreN(yr + c, LoadN(yr + c, tail) + LoadN(ar + c, tail), tail);
      }
    }
  }
}

}  // namespace loramux::LORAMUX_SIMD_NS
