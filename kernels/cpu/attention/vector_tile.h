// One tile of keys against a block of query rows.
#pragma once

#include "cpu/attention/attention_plan.h"
#include "cpu/simd.h"

namespace loramux::LORAMUX_SIMD_NS {

constexpr float kMinusInfinity = -__builtin_inff();
constexpr int kTileKeys = 64;  // keys of one tile, aligned to absolute positions

// Views into one worker's scratch. Rows are (query token, head of the group).
struct TileScratch {
  float* keys_t;  // [head_size, kTileKeys]: keys of the tile, transposed
  float* scores;  // [rows, kTileKeys]: scores, then weights
  float* acc;     // [rows, stride]: weighted values so far
  float* max;     // [rows]: largest score so far
  float* sum;     // [rows]: sum of weights so far
  int32_t* low;   // [rows]: visible keys of this tile are [low, high)
  int32_t* high;
  int64_t stride;
};

// Four levels of an int8 cache in quads: elements of a key, or an element of four values.
struct Quad {
  int8_t level[4];
};

// Level `which` of kLanes quads.
LORAMUX_INLINE VF LoadQuads(const Quad* p, int which) {
  VI v;
  __builtin_memcpy(&v, p, sizeof(v));
  return __builtin_convertvector((v << (24 - 8 * which)) >> 24, VF);
}
LORAMUX_INLINE VF LoadQuadsN(const Quad* p, int which, int n) {
  VI v = {};
  __builtin_memcpy(&v, p, static_cast<size_t>(n) * sizeof(Quad));
  return __builtin_convertvector((v << (24 - 8 * which)) >> 24, VF);
}

// Elements of value j of a tile. Quads begin on multiples of four keys.
template <typename T>
LORAMUX_INLINE VF LoadValue(const T* p, int, int n) {
  return n == kLanes ? LoadKv(p) : LoadKvN(p, n);
}
LORAMUX_INLINE VF LoadValue(const Quad* p, int j, int n) {
  return n == kLanes ? LoadQuads(p, j % 4) : LoadQuadsN(p, j % 4, n);
}

// keys_t[i, j] = keys[j][i], times *scales[j] if there are scales, for keys [begin, end) widened to
// whole vectors; lanes without a key are 0.
template <typename T>
LORAMUX_INLINE void TransposeKeys(const T* const* keys, const float* const* scales, int begin,
                                  int end, int d, float* keys_t) {
  for (int j = begin / kLanes * kLanes; j < end; j += kLanes) {
    VF factor = Set1(1.0f);
    if (scales != nullptr) {
      float each[kLanes];
      for (int k = 0; k < kLanes; ++k) {
        each[k] = j + k >= begin && j + k < end ? *scales[j + k] : 0.0f;
      }
      factor = Load(each);
    }
    for (int i = 0; i < d; i += kLanes) {
      const int width = MinOf(kLanes, d - i);
      VF v[kLanes];
      if (j >= begin && j + kLanes <= end && width == kLanes) {
#pragma GCC unroll 16
        for (int k = 0; k < kLanes; ++k) v[k] = LoadKv(keys[j + k] + i);
        Transpose(v);
#pragma GCC unroll 16
        for (int k = 0; k < kLanes; ++k) {
          Store(keys_t + (i + k) * kTileKeys + j, scales != nullptr ? v[k] * factor : v[k]);
        }
        continue;
      }
      for (int k = 0; k < kLanes; ++k) {
        if (j + k < begin || j + k >= end) {
          v[k] = Zero();
        } else {
          v[k] = width == kLanes ? LoadKv(keys[j + k] + i) : LoadKvN(keys[j + k] + i, width);
        }
      }
      Transpose(v);
      for (int k = 0; k < width; ++k) {
        Store(keys_t + (i + k) * kTileKeys + j, scales != nullptr ? v[k] * factor : v[k]);
      }
    }
  }
}

// The same for keys in quads, a group of 16 keys at a time: a block holds whole groups, and levels
// of absent keys are multiplied with zero.
LORAMUX_INLINE void TransposeKeys(const Quad* const* keys, const float* const* scales, int begin,
                                  int end, int d, float* keys_t) {
  for (int j = begin / kLanes * kLanes; j < end; j += kLanes) {
    float each[kLanes];
    for (int k = 0; k < kLanes; ++k) {
      each[k] = j + k >= begin && j + k < end ? *scales[j + k] : 0.0f;
    }
    const VF factor = Load(each);
    const int present = MaxOf(j, begin);
    const Quad* quads = keys[present] - (present - j);
    for (int i = 0; i < d; i += 4) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        Store(keys_t + (i + k) * kTileKeys + j,
              LoadQuads(quads + i / 4 * kKvGroupTokens, k) * factor);
      }
    }
  }
}

// scores[r, :] = q[r, :] * keys_t for R rows and C vectors of keys.
template <int R, int C>
LORAMUX_INLINE void ScoreBlock(const float* q, int d, const float* keys_t, float* scores) {
  VF acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[r][c] = Zero();
  }
  for (int i = 0; i < d; ++i) {
    VF k[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) k[c] = Load(keys_t + i * kTileKeys + c * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const VF qv = Set1(q[r * d + i]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[r][c] = Fma(qv, k[c], acc[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) Store(scores + r * kTileKeys + c * kLanes, acc[r][c]);
  }
}

template <int R>
LORAMUX_INLINE void ScoreRows(const float* q, int d, const float* keys_t, int begin, int end,
                              float* scores) {
  int j = begin / kLanes * kLanes;
  for (; j + kTileCols * kLanes <= end; j += kTileCols * kLanes) {
    ScoreBlock<R, kTileCols>(q, d, keys_t + j, scores + j);
  }
  for (; j < end; j += kLanes) ScoreBlock<R, 1>(q, d, keys_t + j, scores + j);
}

LORAMUX_INLINE void ScoreTile(const float* q, int d, int32_t rows, const float* keys_t, int begin,
                              int end, float* scores) {
  int32_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    ScoreRows<kTileRows>(q + static_cast<int64_t>(r) * d, d, keys_t, begin, end,
                         scores + r * kTileKeys);
  }
  for (; r < rows; ++r) {
    ScoreRows<1>(q + static_cast<int64_t>(r) * d, d, keys_t, begin, end, scores + r * kTileKeys);
  }
}

// Scores of a row's visible keys become weights exp(score - max); the row's earlier sums are
// brought to the new maximum. Invisible lanes count as absent: they add exact zeros to a
// non-negative sum.
LORAMUX_INLINE void SoftmaxRow(const TileScratch& s, int32_t r, int d) {
  float* scores = s.scores + r * kTileKeys;
  const int low = s.low[r];
  const int high = s.high[r];
  const int begin = low / kLanes * kLanes;
  VF largest = Set1(kMinusInfinity);
  for (int j = begin; j < high; j += kLanes) {
    largest = Max(largest, KeepRange(Load(scores + j), low - j, high - j, kMinusInfinity));
  }
  const float old_max = s.max[r];
  const float tile_max = ReduceMax(largest);
  const float new_max = tile_max > old_max ? tile_max : old_max;
  const VF max = Set1(new_max);
  VF sum = Zero();
  for (int j = begin; j < high; j += kLanes) {
    VF w = ExpNonPositive(Load(scores + j) - max);
    w = KeepRange(w, low - j, high - j, 0.0f);
    Store(scores + j, w);
    sum = sum + w;
  }
  const float tile_sum = ReduceAdd(sum);
  if (old_max == kMinusInfinity) {
    s.sum[r] = tile_sum;
  } else if (new_max == old_max) {
    s.sum[r] += tile_sum;
  } else {
    const VF factor = ExpNonPositive(Set1(old_max - new_max));
    s.sum[r] = s.sum[r] * factor[0] + tile_sum;
    float* acc = s.acc + r * s.stride;
    for (int i = 0; i < d; i += kLanes) Store(acc + i, Load(acc + i) * factor);
  }
  s.max[r] = new_max;
}

// Values are levels; their scales join the weights. The sum of weights stays as it is.
LORAMUX_INLINE void ScaleWeights(const TileScratch& s, int32_t r, const float* const* scales) {
  float* weights = s.scores + r * kTileKeys;
  for (int j = s.low[r]; j < s.high[r]; ++j) weights[j] *= *scales[j];
}

// acc[r, :] += sum over keys [low, high) of weights[r, key] * value[key], R rows, C vectors of the
// head from element i on; the last vector has `width` lanes when C is 1.
template <int R, int C, typename T>
LORAMUX_INLINE void ValueBlock(const T* const* values, int low, int high, const float* weights,
                               float* acc_rows, int64_t stride, int i, int width) {
  VF acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[r][c] = Load(acc_rows + r * stride + i + c * kLanes);
  }
  for (int j = low; j < high; ++j) {
    const T* value = values[j] + i;
    VF v[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      v[c] = LoadValue(value + c * kLanes, j, C == 1 ? width : kLanes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const VF w = Set1(weights[r * kTileKeys + j]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[r][c] = Fma(w, v[c], acc[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) Store(acc_rows + r * stride + i + c * kLanes, acc[r][c]);
  }
}

template <int R, typename T>
LORAMUX_INLINE void ValueRows(const TileScratch& s, const T* const* values, int32_t r, int low,
                              int high, int d) {
  const float* weights = s.scores + r * kTileKeys;
  float* acc = s.acc + r * s.stride;
  int i = 0;
  for (; i + kTileCols * kLanes <= d; i += kTileCols * kLanes) {
    ValueBlock<R, kTileCols>(values, low, high, weights, acc, s.stride, i, kLanes);
  }
  for (; i < d; i += kLanes) {
    ValueBlock<R, 1>(values, low, high, weights, acc, s.stride, i, MinOf(kLanes, d - i));
  }
}

// Rows share a register tile over the keys that all of them see; keys that only some see are added
// row by row before and after, which keeps every row's order ascending.
template <typename T>
LORAMUX_INLINE void AccumulateTile(const TileScratch& s, const T* const* values, int32_t rows,
                                   int d) {
  int32_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    int low = s.low[r];
    int high = s.high[r];
    for (int32_t i = r + 1; i < r + kTileRows; ++i) {
      low = MaxOf(low, s.low[i]);
      high = MinOf(high, s.high[i]);
    }
    if (low >= high) {
      for (int32_t i = r; i < r + kTileRows; ++i) {
        if (s.low[i] < s.high[i]) ValueRows<1>(s, values, i, s.low[i], s.high[i], d);
      }
      continue;
    }
    for (int32_t i = r; i < r + kTileRows; ++i) {
      if (s.low[i] < low) ValueRows<1>(s, values, i, s.low[i], low, d);
    }
    ValueRows<kTileRows>(s, values, r, low, high, d);
    for (int32_t i = r; i < r + kTileRows; ++i) {
      if (high < s.high[i]) ValueRows<1>(s, values, i, high, s.high[i], d);
    }
  }
  for (; r < rows; ++r) {
    if (s.low[r] < s.high[r]) ValueRows<1>(s, values, r, s.low[r], s.high[r], d);
  }
}

}  // namespace loramux::LORAMUX_SIMD_NS
