// One tile of keys against 16 query rows: scores, softmax, weighted values.
#pragma once

#include "cpu/attention/amx_layout.h"

namespace loramux::LORAMUX_SIMD_NS {

// Scores of kCount groups of keys.
template <int kCount>
LORAMUX_INLINE void ScoreBf16(const KeyTile& tile, int group, const AmxSizes& sizes,
                              const char* queries, float* scores) {
  if (kCount > 0) TileZero<0>();
  if (kCount > 1) TileZero<1>();
  if (kCount > 2) TileZero<2>();
  if (kCount > 3) TileZero<3>();
  for (int64_t c = 0; c < sizes.depth_tiles; ++c) {
    TileLoad<6>(queries + c * kTileBytes, 64);
    const int64_t at = 64 * c;
    if (kCount > 0) {
      TileLoad<4>(tile.k_group[group] + at, tile.k_stride);
      TileDotBf16<0, 4, 6>();
    }
    if (kCount > 1) {
      TileLoad<5>(tile.k_group[group + 1] + at, tile.k_stride);
      TileDotBf16<1, 5, 6>();
    }
    if (kCount > 2) {
      TileLoad<4>(tile.k_group[group + 2] + at, tile.k_stride);
      TileDotBf16<2, 4, 6>();
    }
    if (kCount > 3) {
      TileLoad<5>(tile.k_group[group + 3] + at, tile.k_stride);
      TileDotBf16<3, 5, 6>();
    }
  }
  float* to = scores + group * kTileBytes / 4;
  if (kCount > 0) TileStore<0>(to, 64);
  if (kCount > 1) TileStore<1>(to + kTileBytes / 4, 64);
  if (kCount > 2) TileStore<2>(to + 2 * kTileBytes / 4, 64);
  if (kCount > 3) TileStore<3>(to + 3 * kTileBytes / 4, 64);
}

// Scores of key groups [first, last).
LORAMUX_INLINE void ScoreGroups(const KeyTile& tile, int first, int last, const AmxSizes& sizes,
                                const char* queries, const AmxScratch& s, Prefetcher* prefetcher) {
  int g = first;
  for (; g + 4 <= last; g += 4) {
    ScoreBf16<4>(tile, g, sizes, queries, s.scores);
    prefetcher->Lines(32);
  }
  for (; g < last; ++g) ScoreBf16<1>(tile, g, sizes, queries, s.scores);
}

// Which keys of a tile 16 rows see: lane r sees [low, high).
struct Visible {
  __m512i low, high;

  inline __attribute__((always_inline)) __mmask16 Lanes(int j) const {
    const __m512i key = _mm512_set1_epi32(j);
    return _mm512_cmple_epi32_mask(low, key) & _mm512_cmpgt_epi32_mask(high, key);
  }
};

// Scores of keys [first, last) become weights, bf16, rows of operand A; max, sum and
// acc [16, stride] are brought up to date. kMasked: some row does not see all of these keys.
template <bool kMasked>
LORAMUX_INLINE void SoftmaxRows(const AmxScratch& s, int first, int last, const Visible& visible,
                                float* max, float* sum, float* acc, int64_t stride,
                                Prefetcher* prefetcher) {
  VF largest[4] = {Set1(MinusInfinity()), Set1(MinusInfinity()), Set1(MinusInfinity()),
                   Set1(MinusInfinity())};
  for (int j = first; j < last; j += 4) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      VF x = Load(s.scores + (j + i) * kRowGroup);
      if (kMasked) x = _mm512_mask_mov_ps(Set1(MinusInfinity()), visible.Lanes(j + i), x);
      largest[i] = Max(x, largest[i]);  // takes the second where x is NaN
    }
  }
  const VF old_max = Load(max);
  VF new_max = Max(Max(largest[0], largest[1]), Max(largest[2], largest[3]));
  new_max = Max(new_max, old_max);
  Store(max, new_max);
  // A row that has seen nothing yet: any finite number will do.
  const __mmask16 none = _mm512_cmp_ps_mask(new_max, Set1(MinusInfinity()), _CMP_EQ_OQ);
  const VF reference = _mm512_mask_mov_ps(new_max, none, Zero());

  VF even = Zero();
  VF odd = Zero();
  for (int depth = first / kDepthKeys; depth < last / kDepthKeys; ++depth) {
    prefetcher->Lines(64);
    VF pairs[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      const int j = depth * kDepthKeys + 2 * i;
      VF a = Exp2::Of(Load(s.scores + j * kRowGroup) - reference);
      VF b = Exp2::Of(Load(s.scores + (j + 1) * kRowGroup) - reference);
      if (kMasked) {
        const __mmask16 sees_a = visible.Lanes(j);
        const __mmask16 sees_b = visible.Lanes(j + 1);
        even = even + _mm512_maskz_mov_ps(sees_a, a);
        odd = odd + _mm512_maskz_mov_ps(sees_b, b);
        a = _mm512_maskz_mov_ps(sees_a, a);
        b = _mm512_maskz_mov_ps(sees_b, b);
      } else {
        even = even + a;
        odd = odd + b;
      }
      const __m512i interleave = _mm512_set_epi16(
          31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
          19, 3, 18, 2, 17, 1, 16, 0);
      pairs[i] = (VF)_mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
    Transpose(pairs);
    float* to = reinterpret_cast<float*>(s.weights + depth * (kTileBytes / 2));
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) Store(to + i * kLanes, pairs[i]);
  }

  const VF factor = Exp2::Of(old_max - reference);
  Store(sum, Load(sum) * factor + (even + odd));
  uint32_t changed = _mm512_cmp_ps_mask(old_max, new_max, _CMP_NEQ_UQ) &
                     _mm512_cmp_ps_mask(old_max, Set1(MinusInfinity()), _CMP_NEQ_UQ);
  if (changed == 0) return;
  float factors[kLanes];
  Store(factors, factor);
  for (; changed != 0; changed &= changed - 1) {
    const int r = __builtin_ctz(changed);
    float* row = acc + r * stride;
    for (int64_t i = 0; i < stride; i += kLanes) Store(row + i, Load(row + i) * Set1(factors[r]));
  }
}

// acc += weights * values for kCount tiles of columns, keys of depths [first, last).
template <int kCount>
LORAMUX_INLINE void ValueTiles(const AmxScratch& s, const AmxSizes& sizes, int first, int last,
                               int64_t column_tile, float* acc, int64_t stride) {
  const int64_t row_bytes = 4 * stride;
  float* to = acc + column_tile * 16;
  if (kCount > 0) TileLoad<0>(to, row_bytes);
  if (kCount > 1) TileLoad<1>(to + 16, row_bytes);
  if (kCount > 2) TileLoad<2>(to + 32, row_bytes);
  if (kCount > 3) TileLoad<3>(to + 48, row_bytes);
  for (int depth = first; depth < last; ++depth) {
    const uint16_t* values =
        s.values + (depth * sizes.value_tiles + column_tile) * (kTileBytes / 2);
    TileLoad<4>(s.weights + depth * (kTileBytes / 2), 64);
    if (kCount > 0) {
      TileLoad<5>(values, 64);
      TileDotBf16<0, 4, 5>();
    }
    if (kCount > 1) {
      TileLoad<6>(values + kTileBytes / 2, 64);
      TileDotBf16<1, 4, 6>();
    }
    if (kCount > 2) {
      TileLoad<7>(values + 2 * kTileBytes / 2, 64);
      TileDotBf16<2, 4, 7>();
    }
    if (kCount > 3) {
      TileLoad<5>(values + 3 * kTileBytes / 2, 64);
      TileDotBf16<3, 4, 5>();
    }
  }
  if (kCount > 0) TileStore<0>(to, row_bytes);
  if (kCount > 1) TileStore<1>(to + 16, row_bytes);
  if (kCount > 2) TileStore<2>(to + 32, row_bytes);
  if (kCount > 3) TileStore<3>(to + 48, row_bytes);
}

LORAMUX_INLINE void AddValues(const AmxScratch& s, const AmxSizes& sizes, int first, int last,
                              float* acc, int64_t stride) {
  int64_t c = 0;
  for (; c + 4 <= sizes.value_tiles; c += 4) ValueTiles<4>(s, sizes, first, last, c, acc, stride);
  for (; c < sizes.value_tiles; ++c) ValueTiles<1>(s, sizes, first, last, c, acc, stride);
}

}  // namespace loramux::LORAMUX_SIMD_NS
