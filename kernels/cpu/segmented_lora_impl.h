// Segmented LoRA for one instruction set. The order in which an output element is added up is
// fixed: register tiles only decide how many elements are in flight, never an element's order.
#pragma once

#include "cpu/simd.h"
#include "cpu/work_queue.h"
#include "loramux/segmented_lora.h"

namespace loramux::LORAMUX_SIMD_NS {

constexpr int64_t kRowBlock = 32;        // rows of one unit, so that A and B tiles are reused
constexpr int64_t kShrinkChunk = 1024;   // inputs per partial dot product: rows and A stay in L1
constexpr int64_t kExpandGroup = 128;    // outputs accumulated together
constexpr int64_t kTransposeDepth = 64;  // ranks of one transposed tile of B
constexpr int kDecodeRanks = 8;          // chains in flight for a single row

// Walks units (segment, row block, column block) in order; one cursor per worker.
struct LoraCursor {
  const SegmentedLoraArgs* args;
  bool expand;
  int64_t segment = 0;
  int64_t first_unit = 0;  // of `segment`
  int64_t h_offset = 0;    // of `segment` in the workspace
  int64_t col_block = 0, col_blocks = 0, row_blocks = 0;

  int64_t Rows() const {
    const LoraSegment& s = args->segments[segment];
    return s.end > s.begin ? s.end - s.begin : 0;
  }
  int64_t Cols() const { return expand ? args->out : args->segments[segment].rank; }

  // Small blocks for short segments: many adapters with few rows each still fill all threads.
  void Measure() {
    const int64_t rows = Rows();
    const int64_t rank = args->segments[segment].rank;
    if (expand) {
      col_block = rows >= kRowBlock ? 2 * kExpandGroup : 8 * kExpandGroup;
    } else {
      col_block = rows >= kRowBlock ? 32 : 8;
    }
    row_blocks = rank > 0 ? CeilDiv(rows, kRowBlock) : 0;
    col_blocks = CeilDiv(Cols(), col_block);
  }
  void Next() {
    h_offset += Rows() * args->segments[segment].rank;
    first_unit += row_blocks * col_blocks;
    ++segment;
  }
  // Moves to the segment that holds `unit`, which is not before the last one sought.
  void Seek(int64_t unit) {
    Measure();
    while (unit >= first_unit + row_blocks * col_blocks) {
      Next();
      Measure();
    }
  }
};

inline int64_t CountUnits(const SegmentedLoraArgs& args, bool expand) {
  LoraCursor cursor{&args, expand};
  while (cursor.segment < args.num_segments) {
    cursor.Measure();
    cursor.Next();
  }
  return cursor.first_unit;
}

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

inline void ShrinkUnit(const SegmentedLoraArgs& args, const LoraCursor& cursor, int64_t unit) {
  const LoraSegment& s = args.segments[cursor.segment];
  const int64_t local = unit - cursor.first_unit;
  const int64_t row0 = (local / cursor.col_blocks) * kRowBlock;
  const int64_t rows = MinOf(kRowBlock, cursor.Rows() - row0);
  const int64_t rank0 = (local % cursor.col_blocks) * cursor.col_block;
  const int64_t ranks = MinOf(cursor.col_block, s.rank - rank0);
  const int64_t in = args.in;
  const int64_t ldh = s.rank;
  const float* x = args.x + (s.begin + row0) * in;
  const float* a = s.a + rank0 * in;
  float* h = args.workspace + cursor.h_offset + row0 * ldh + rank0;

  for (int64_t c = 0; c < in; c += kShrinkChunk) {
    const int64_t len = MinOf(kShrinkChunk, in - c);
    const bool first = c == 0;
    int64_t r = 0;
    for (; r + kTileRows <= rows; r += kTileRows) {
      const float* xr = x + r * in + c;
      float* hr = h + r * ldh;
      int64_t k =
          ShrinkRanks<kTileRows, kTileCols>(xr, in, a + c, in, len, first, hr, ldh, 0, ranks);
      ShrinkRanks<kTileRows, 1>(xr, in, a + c, in, len, first, hr, ldh, k, ranks);
    }
    for (; r < rows; ++r) {
      const float* xr = x + r * in + c;
      float* hr = h + r * ldh;
      int64_t k = ShrinkRanks<1, kDecodeRanks>(xr, in, a + c, in, len, first, hr, ldh, 0, ranks);
      ShrinkRanks<1, 1>(xr, in, a + c, in, len, first, hr, ldh, k, ranks);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < ranks; ++k) h[r * ldh + k] *= s.scale;
  }
}

// acc[r, :] (+)= sum over k of h[r, k] * bt[k, :] for R rows and C vectors of columns; the last
// vector has `tail` lanes when tail > 0.
template <int R, int C>
LORAMUX_INLINE void ExpandTile(const float* h, int64_t ldh, const float* bt, int64_t ldb,
                               int64_t depth, bool first, float* acc_rows, int tail) {
  VF acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      acc[r][c] = first ? Zero() : Load(acc_rows + r * kExpandGroup + c * kLanes);
    }
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
                                  int64_t depth, bool first, float* acc, int64_t col,
                                  int64_t cols) {
  for (; col + C * kLanes <= cols; col += C * kLanes) {
    ExpandTile<R, C>(h, ldh, bt + col, ldb, depth, first, acc + col, 0);
  }
  if (C == 1 && col < cols) {
    ExpandTile<R, 1>(h, ldh, bt + col, ldb, depth, first, acc + col, static_cast<int>(cols - col));
    col = cols;
  }
  return col;
}

// acc [rows, kExpandGroup] (+)= h [rows, depth] * bt [depth, cols], cols <= kExpandGroup.
inline void ExpandGroup(const float* h, int64_t ldh, int64_t rows, const float* bt, int64_t ldb,
                        int64_t depth, bool first, float* acc, int64_t cols) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    const float* hr = h + r * ldh;
    float* ar = acc + r * kExpandGroup;
    int64_t c = ExpandCols<kTileRows, kTileCols>(hr, ldh, bt, ldb, depth, first, ar, 0, cols);
    ExpandCols<kTileRows, 1>(hr, ldh, bt, ldb, depth, first, ar, c, cols);
  }
  for (; r < rows; ++r) {
    const float* hr = h + r * ldh;
    float* ar = acc + r * kExpandGroup;
    int64_t c = ExpandCols<1, 8>(hr, ldh, bt, ldb, depth, first, ar, 0, cols);
    ExpandCols<1, 1>(hr, ldh, bt, ldb, depth, first, ar, c, cols);
  }
}

// dst [ranks, kExpandGroup] = transpose of src [cols, ranks] (row stride ld); columns are padded
// with zeros to whole vectors.
inline void TransposeTile(const float* src, int64_t ld, int64_t cols, int64_t ranks, float* dst) {
  for (int64_t c = 0; c < cols; c += kLanes) {
    for (int64_t k = 0; k < ranks; k += kLanes) {
      const int width = static_cast<int>(MinOf<int64_t>(kLanes, ranks - k));
      VF v[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const float* p = src + (c + i) * ld + k;
        v[i] = c + i >= cols ? Zero() : width == kLanes ? Load(p) : LoadN(p, width);
      }
      Transpose(v);
      for (int i = 0; i < width; ++i) Store(dst + (k + i) * kExpandGroup + c, v[i]);
    }
  }
}

inline void ExpandUnit(const SegmentedLoraArgs& args, const LoraCursor& cursor, int64_t unit) {
  const LoraSegment& s = args.segments[cursor.segment];
  const int64_t local = unit - cursor.first_unit;
  const int64_t row0 = (local / cursor.col_blocks) * kRowBlock;
  const int64_t rows = MinOf(kRowBlock, cursor.Rows() - row0);
  const int64_t col0 = (local % cursor.col_blocks) * cursor.col_block;
  const int64_t col_end = MinOf(args.out, col0 + cursor.col_block);
  const int64_t rank = s.rank;
  const float* h = args.workspace + cursor.h_offset + row0 * rank;
  float* y = args.y + (s.begin + row0) * args.out;
  alignas(64) float acc[kRowBlock * kExpandGroup];
  alignas(64) float tile[kTransposeDepth * kExpandGroup];

  for (int64_t c0 = col0; c0 < col_end; c0 += kExpandGroup) {
    const int64_t cols = MinOf(kExpandGroup, col_end - c0);
    if (s.bt != nullptr) {
      ExpandGroup(h, rank, rows, s.bt + c0, args.out, rank, true, acc, cols);
    } else {
      for (int64_t k = 0; k < rank; k += kTransposeDepth) {
        const int64_t depth = MinOf(kTransposeDepth, rank - k);
        TransposeTile(s.b + c0 * rank + k, rank, cols, depth, tile);
        ExpandGroup(h + k, rank, rows, tile, kExpandGroup, depth, k == 0, acc, cols);
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* yr = y + r * args.out + c0;
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

inline void SegmentedLora(const SegmentedLoraArgs& args, const Parallel& parallel) {
  int64_t elements = 0;
  for (int64_t i = 0; i < args.num_segments; ++i) {
    const LoraSegment& s = args.segments[i];
    if (s.end > s.begin) elements += static_cast<int64_t>(s.end - s.begin) * s.rank;
  }
  if (elements == 0) return;
  RunUnits(parallel, CountUnits(args, false), WorkersFor(parallel, elements * args.in),
           [&](int64_t, auto next) {
             LoraCursor cursor{&args, false};
             for (int64_t unit = next(); unit >= 0; unit = next()) {
               cursor.Seek(unit);
               ShrinkUnit(args, cursor, unit);
             }
           });
  RunUnits(parallel, CountUnits(args, true), WorkersFor(parallel, elements * args.out),
           [&](int64_t, auto next) {
             LoraCursor cursor{&args, true};
             for (int64_t unit = next(); unit >= 0; unit = next()) {
               cursor.Seek(unit);
               ExpandUnit(args, cursor, unit);
             }
           });
}

}  // namespace loramux::LORAMUX_SIMD_NS
