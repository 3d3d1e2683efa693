// SegmentedLora with bfloat16 adapters for one instruction set without bfloat16 arithmetic of its
// own: weights are widened, which is exact, and everything else is float32. A lane's sum is the
// same chain of fused multiply-adds whatever tile it is part of.
#pragma once

#include "cpu/lora/lora_kernels.h"
#include "cpu/simd.h"

namespace loramux::LORAMUX_SIMD_NS {

constexpr int kPanelVectors = static_cast<int>(kLoraPanel) / kLanes;
// Rows of a tile of one panel: sums of even and odd elements fill most registers.
constexpr int kBf16TileRows = kPanelVectors == 1 ? 8 : kPanelVectors == 2 ? 3 : 1;
constexpr int64_t kFetchAheadPairs = lora::kFetchAhead / 4;

// Pairs of bfloat16, one per lane: `even` is the first of each.
struct PairLanes {
  VF even, odd;
};
// `pairs` counts words of 32 bits; lanes at and past n are zero.
LORAMUX_INLINE PairLanes LoadPairs(const float* pairs, int n) {
  const VU both = (VU)(n >= kLanes ? Load(pairs) : LoadN(pairs, n));
  return {(VF)(both << 16), (VF)(both & 0xffff0000u)};
}

// Sums over `inputs` inputs of R rows for V vectors of ranks, the last of which has `lanes`.
template <int R, int V>
LORAMUX_INLINE void ShrinkTileBf16(const float* x, int64_t ldx, int64_t inputs, const float* a,
                                   int64_t width, int lanes, float* h, int64_t ldh) {
  VF even[R][V], odd[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) even[r][v] = odd[r][v] = Zero();
  }
  const auto step = [&](int64_t i, bool whole) __attribute__((always_inline)) {
    const float* pairs = a + i / 2 * width;
    __builtin_prefetch(pairs + kFetchAheadPairs, 0, 3);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const PairLanes w = LoadPairs(pairs + v * kLanes, v == V - 1 ? lanes : kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        even[r][v] = Fma(Set1(x[r * ldx + i]), w.even, even[r][v]);
        if (whole) odd[r][v] = Fma(Set1(x[r * ldx + i + 1]), w.odd, odd[r][v]);
      }
    }
  };
  int64_t i = 0;
  for (; i + 2 <= inputs; i += 2) step(i, true);
  if (i < inputs) step(i, false);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      StoreN(h + r * ldh + v * kLanes, even[r][v] + odd[r][v], v == V - 1 ? lanes : kLanes);
    }
  }
}

template <int R, int V>
inline void ShrinkRowsBf16(const lora::ShrinkPiece& piece, int64_t row, const float* a,
                           int64_t width, int64_t first, int lanes) {
  const int64_t ldx = piece.x_stride;
  const int64_t ldh = piece.segment->rank;
  const int64_t inputs = piece.last_in - piece.first_in;
  const float* x = piece.x + piece.first_in;
  float* h = piece.h + piece.first_rank + first;
  for (; row + R <= piece.rows; row += R) {
    ShrinkTileBf16<R, V>(x + row * ldx, ldx, inputs, a + first, width, lanes, h + row * ldh, ldh);
  }
  if constexpr (R > 1) ShrinkRowsBf16<R / 2, V>(piece, row, a, width, first, lanes);
}

inline void ShrinkBf16(const lora::ShrinkPiece& piece) {
  const int64_t width = piece.last_rank - piece.first_rank;
  const int64_t padded_in = CeilDiv(piece.in, kLoraInputMultiple) * kLoraInputMultiple;
  const float* a = static_cast<const float*>(piece.segment->a) +
                   (piece.first_rank * padded_in + piece.first_in * width) / 2;
  if (width == kLoraPanel) {
    ShrinkRowsBf16<kBf16TileRows, kPanelVectors>(piece, 0, a, width, 0, kLanes);
    return;
  }
  for (int64_t first = 0; first < width; first += kLanes) {
    const int lanes = static_cast<int>(MinOf<int64_t>(kLanes, width - first));
    ShrinkRowsBf16<kBf16TileRows, 1>(piece, 0, a, width, first, lanes);
  }
}

// y of R rows and one panel; the panel has `columns` of them in y.
template <int R>
LORAMUX_INLINE void ExpandTileBf16(const float* h, int64_t ldh, const float* b, int64_t pairs,
                                   float* y, int64_t ldy, int columns) {
  VF acc[R][kPanelVectors];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v) acc[r][v] = Zero();
  }
  for (int64_t p = 0; p < pairs; ++p) {
    __builtin_prefetch(b + p * kLoraPanel + kFetchAheadPairs, 0, 3);
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v) {
      const PairLanes w = LoadPairs(b + p * kLoraPanel + v * kLanes, kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        acc[r][v] = Fma(Set1(h[r * ldh + 2 * p]), w.even, acc[r][v]);
        acc[r][v] = Fma(Set1(h[r * ldh + 2 * p + 1]), w.odd, acc[r][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v) {
      float* at = y + r * ldy + v * kLanes;
      const int lanes = columns - v * kLanes;
      if (lanes >= kLanes) {
        Store(at, Load(at) + acc[r][v]);
      } else if (lanes > 0) {
        StoreN(at, LoadN(at, lanes) + acc[r][v], lanes);
      }
    }
  }
}

template <int R>
inline void ExpandRowsBf16(const lora::ExpandPiece& piece, const float* h, int64_t ldh, int64_t row,
                           const float* b, int64_t pairs, int64_t first) {
  const int columns = static_cast<int>(MinOf<int64_t>(kLoraPanel, piece.last - first));
  for (; row + R <= piece.rows; row += R) {
    ExpandTileBf16<R>(h + row * ldh, ldh, b, pairs, piece.y + row * piece.y_stride + first,
                      piece.y_stride, columns);
  }
  if constexpr (R > 1) ExpandRowsBf16<R / 2>(piece, h, ldh, row, b, pairs, first);
}

inline void ExpandBf16(const lora::ExpandPiece& piece) {
  const int64_t rank = piece.segment->rank;
  const int64_t pairs = CeilDiv(rank, 2);
  const int64_t ldh = 2 * pairs;
  alignas(64) float h[lora::kPieceH];
  for (int64_t r = 0; r < piece.rows; ++r) {
    float* to = h + r * ldh;
    to[ldh - 1] = 0.0f;
    for (int64_t k = 0; k < rank; ++k) {
      const float* from = piece.h + r * rank + k;
      float sum = from[0];
      for (int64_t c = 1; c < piece.chunks; ++c) sum += from[c * piece.chunk_stride];
      to[k] = sum * piece.segment->scale;
    }
  }
  const float* b = static_cast<const float*>(piece.segment->b) + piece.first * pairs;
  for (int64_t first = piece.first; first < piece.last; first += kLoraPanel) {
    ExpandRowsBf16<kBf16TileRows>(piece, h, ldh, 0, b, pairs, first);
    b += pairs * kLoraPanel;
  }
}

}  // namespace loramux::LORAMUX_SIMD_NS
