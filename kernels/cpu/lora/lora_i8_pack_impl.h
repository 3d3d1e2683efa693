// Stored adapter weights to int8 in SegmentedLora's order, for one instruction set: the largest of
// a group is found, then levels are rounded row by row and transposed in words of four.
#pragma once

#include "cpu/convert_impl.h"
#include "loramux/lora_weights.h"

namespace loramux::LORAMUX_SIMD_NS {

// Ranks of B that are rounded together.
constexpr int64_t kI8Ranks = 256;

// best[i] = the larger of it and the bits of |values[i]|: NaN is above infinity, and that above all
// numbers. count and the arrays' lengths are rounded up to whole vectors.
LORAMUX_INLINE void TakeLargest(const float* values, int64_t count, float* best) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const VI bits = (VI)Load(values + i) & 0x7fffffff;
    const VI before = (VI)Load(best + i);
    Store(best + i, (VF)(bits > before ? bits : before));
  }
}

LORAMUX_INLINE float LargestLane(const float* best) {
  int32_t bits = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    int32_t other;
    __builtin_memcpy(&other, best + lane, sizeof(other));
    bits = MaxOf(bits, other);
  }
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof(largest));
  return largest;
}

// What to multiply with to get levels, and to get weights again. False where the largest is not
// finite; then the levels mean nothing.
LORAMUX_INLINE bool LevelScale(float largest, float* inverse, float* scale) {
  const bool zero = largest < kLoraSmallestI8;
  *inverse = zero ? 0.0f : kLoraMaxLevel / largest;
  *scale = zero ? 0.0f : largest / kLoraMaxLevel;
  return largest <= __FLT_MAX__;
}

// to[i] = values[i] * inverse, rounded; `values` is overwritten. `inverse` has one number, or with
// `each` count of them. count is rounded up to whole vectors.
LORAMUX_INLINE void RoundLevels(float* values, int64_t count, const float* inverse, bool each,
                                uint8_t* to) {
  // Added, it leaves the rounded number in the lowest bits, in two's complement.
  constexpr float kMagic = 12582912.0f;
  for (int64_t i = 0; i < count; i += kLanes) {
    const VF by = each ? Load(inverse + i) : Set1(*inverse);
    Store(values + i, Load(values + i) * by + Set1(kMagic));
  }
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, values + i, sizeof(bits));
    to[i] = static_cast<uint8_t>(bits);
  }
}

// to[w, i] = word w of source row i, for rows [0, rows), rows <= 16. from has `from_ld` words per
// row, whole vectors of which may be read.
LORAMUX_INLINE void TransposeWords(const float* from, int64_t from_ld, int64_t rows, int64_t words,
                                   float* to, int64_t ld) {
  for (int64_t w = 0; w < words; w += kLanes) {
    const int64_t depth = MinOf<int64_t>(kLanes, words - w);
    for (int64_t i = 0; i < rows; i += kLanes) {
      const int height = static_cast<int>(MinOf<int64_t>(kLanes, rows - i));
      VF v[kLanes];
      for (int r = 0; r < kLanes; ++r) {
        v[r] = r < height ? Load(from + (i + r) * from_ld + w) : Zero();
      }
      Transpose(v);
      for (int64_t j = 0; j < depth; ++j) {
        float* at = to + (w + j) * ld + i;
        if (height == kLanes) {
          Store(at, v[j]);
        } else {
          StoreN(at, v[j], height);
        }
      }
    }
  }
}

template <int64_t N>
struct alignas(64) LevelRows {
  float values[N] = {};
  float largest[N];
  float inverse[N] = {};
  float scale[N] = {};
  uint8_t levels[kLoraPanel][N];
};

// Zeros from n to the next multiple of a vector of any instruction set.
LORAMUX_INLINE int64_t PadValues(float* values, int64_t n) {
  const int64_t padded = CeilDiv(n, kLoraInputMultipleI8) * kLoraInputMultipleI8;
  __builtin_memset(values + n, 0, static_cast<size_t>(padded - n) * sizeof(float));
  return padded;
}

template <WeightDtype D>
bool PackRunI8A(const uint8_t* from, int64_t rank, int64_t in, float* to) {
  constexpr int64_t kBytes = WeightDtypeBytes(D);
  const int64_t padded_in = CeilDiv(in, kLoraInputMultipleI8) * kLoraInputMultipleI8;
  float* scales = to + rank * padded_in / 4;
  LevelRows<kLoraGroup> rows;
  bool finite = true;
  for (int64_t k = 0; k < rank; k += kLoraPanel) {
    const int64_t width = MinOf(kLoraPanel, rank - k);
    for (int64_t i = 0; i < in; i += kLoraGroup) {
      const int64_t inputs = MinOf(kLoraGroup, in - i);
      int64_t padded = 0;
      for (int64_t r = 0; r < width; ++r) {
        ConvertRun<D>(from + ((k + r) * in + i) * kBytes, static_cast<size_t>(inputs), rows.values,
                      1.0f);
        padded = PadValues(rows.values, inputs);
        __builtin_memset(rows.largest, 0, kLanes * sizeof(float));
        for (int64_t j = 0; j < padded; j += kLanes) {
          TakeLargest(rows.values + j, kLanes, rows.largest);
        }
        float inverse = 0.0f;
        finite = LevelScale(LargestLane(rows.largest), &inverse,
                            scales + i / kLoraGroup * rank + k + r) &&
                 finite;
        RoundLevels(rows.values, padded, &inverse, false, rows.levels[r]);
      }
      TransposeWords(reinterpret_cast<const float*>(rows.levels), kLoraGroup / 4, width, padded / 4,
                     to + (k * padded_in + i * width) / 4, width);
    }
  }
  return finite;
}

// The ranks [k, k + depth) of outputs [first, last), which are one group.
template <WeightDtype D>
bool PackGroupI8B(const uint8_t* from, int64_t rank, int64_t k, int64_t depth, int64_t first,
                  int64_t last, float scale, float* to, float* scales) {
  constexpr int64_t kBytes = WeightDtypeBytes(D);
  const int64_t quads = CeilDiv(rank, 4);
  LevelRows<kI8Ranks> rows;
  const auto load = [&](int64_t o) __attribute__((always_inline)) {
    ConvertRun<D>(from + (o * rank + k) * kBytes, static_cast<size_t>(depth), rows.values, scale);
    return PadValues(rows.values, depth);
  };
  __builtin_memset(rows.largest, 0, sizeof(rows.largest));
  for (int64_t o = first; o < last; ++o) {
    const int64_t padded = load(o);
    TakeLargest(rows.values, padded, rows.largest);
  }
  bool finite = true;
  for (int64_t i = 0; i < depth; ++i) {
    finite = LevelScale(rows.largest[i], rows.inverse + i, rows.scale + i) && finite;
  }
  __builtin_memcpy(scales + k, rows.scale,
                   static_cast<size_t>(CeilDiv(depth, 4) * 4) * sizeof(float));
  for (int64_t o = first; o < last; o += kLoraPanel) {
    for (int64_t c = 0; c < kLoraPanel; ++c) {
      if (o + c < last) {
        const int64_t padded = load(o + c);
        RoundLevels(rows.values, padded, rows.inverse, true, rows.levels[c]);
      } else {
        __builtin_memset(rows.levels[c], 0, sizeof(rows.levels[c]));
      }
    }
    TransposeWords(reinterpret_cast<const float*>(rows.levels), kI8Ranks / 4, kLoraPanel,
                   CeilDiv(depth, 4), to + o * quads + k / 4 * kLoraPanel, kLoraPanel);
  }
  return finite;
}

template <WeightDtype D>
bool PackRunI8B(const uint8_t* from, int64_t rank, int64_t out, float scale, float* to) {
  const int64_t padded_rank = CeilDiv(rank, 4) * 4;
  float* scales = to + padded_rank / 4 * CeilDiv(out, kLoraPanel) * kLoraPanel;
  bool finite = true;
  for (int64_t o = 0; o < out; o += kLoraGroup) {
    const int64_t last = MinOf(out, o + kLoraGroup);
    for (int64_t k = 0; k < rank; k += kI8Ranks) {
      finite = PackGroupI8B<D>(from, rank, k, MinOf(kI8Ranks, rank - k), o, last, scale, to,
                               scales + o / kLoraGroup * padded_rank) &&
               finite;
    }
  }
  return finite;
}

inline bool PackLoraI8A(const void* from, WeightDtype dtype, int64_t rank, int64_t in, void* to) {
  return ForDtype(dtype, [&](auto as) {
    return PackRunI8A<as.kDtype>(static_cast<const uint8_t*>(from), rank, in,
                                 static_cast<float*>(to));
  });
}

inline bool PackLoraI8B(const void* from, WeightDtype dtype, int64_t rank, int64_t out, float scale,
                        void* to) {
  return ForDtype(dtype, [&](auto as) {
    return PackRunI8B<as.kDtype>(static_cast<const uint8_t*>(from), rank, out, scale,
                                 static_cast<float*>(to));
  });
}

}  // namespace loramux::LORAMUX_SIMD_NS
