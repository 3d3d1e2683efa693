// Where the instruction sets without tiles keep rounded activations, and how rows are rounded.
// Plain code: compiled for each set, it becomes vectors, and gives the same bits in all.
//   int8, int4   int8 [rows][stride], float scales [rows][groups], int32 sums [rows][blocks + 1]:
//                sums[b] adds up the first 32 b levels of the row
//   bf16         bfloat16 or float32 [rows][stride], as the set's dot product wants them
#pragma once

#include "cpu/packed/packed_table.h"

#define LORAMUX_PACKED_INLINE static inline __attribute__((always_inline))

namespace loramux::packed::LORAMUX_PACKED_NS {

constexpr int64_t kSumBlock = 32;  // levels per sum: the narrowest inner group
// Beyond each row, so that the same depth of many rows does not fall into the same cache sets.
constexpr int64_t kRowPadBytes = 64;

LORAMUX_PACKED_INLINE int64_t Align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }
LORAMUX_PACKED_INLINE int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }

struct IntRows {
  int8_t* levels;
  int64_t stride;  // of levels
  float* scales;
  int64_t groups;  // stride of scales
  int32_t* sums;
  int64_t sum_stride;
  int64_t bytes;  // of all
};

LORAMUX_PACKED_INLINE IntRows IntRowsOf(const Operand& operand) {
  IntRows rows;
  rows.stride = operand.padded_k + kRowPadBytes;
  rows.groups = operand.Groups();
  rows.sum_stride = operand.padded_k / kSumBlock + 1;
  uint8_t* at = static_cast<uint8_t*>(operand.data);
  rows.levels = reinterpret_cast<int8_t*>(at);
  int64_t end = Align64(operand.rows * rows.stride);
  rows.scales = reinterpret_cast<float*>(at + end);
  end += Align64(operand.rows * rows.groups * 4);
  rows.sums = reinterpret_cast<int32_t*>(at + end);
  end += Align64(operand.rows * rows.sum_stride * 4);
  rows.bytes = end;
  return rows;
}

LORAMUX_PACKED_INLINE uint32_t BitsOf(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}
LORAMUX_PACKED_INLINE float FloatOf(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

// Rounds one group of `width` levels, of which `count` come from x. Returns its scale.
LORAMUX_PACKED_INLINE float RoundGroup(const float* x, int64_t count, int64_t width,
                                       int8_t* levels) {
  constexpr float kTiny = 0x1p-100f;
  constexpr uint32_t kInfinity = 0x7f800000u;
  int32_t largest = 0;  // of magnitudes as bits: in order, with infinity and NaN at the end
  for (int64_t i = 0; i < count; ++i) {
    const int32_t magnitude = static_cast<int32_t>(BitsOf(x[i]) & 0x7fffffffu);
    largest = magnitude > largest ? magnitude : largest;
  }
  const float m = FloatOf(static_cast<uint32_t>(largest));
  const bool finite = static_cast<uint32_t>(largest) < kInfinity;
  if (!finite || m < kTiny) {
    __builtin_memset(levels, 0, static_cast<size_t>(width));
    return finite ? 0.0f : FloatOf(0x7fc00000u);
  }
  const float inverse = 127.0f / m;
  for (int64_t i = 0; i < count; ++i) {
    // Adding 1.5 * 2^23 rounds to an integer, half to even, that stands in the low bits.
    const float shifted = x[i] * inverse + 12582912.0f;
    int32_t level = static_cast<int32_t>(BitsOf(shifted)) - 0x4b400000;
    level = level > 127 ? 127 : level;
    level = level < -127 ? -127 : level;
    levels[i] = static_cast<int8_t>(level);
  }
  __builtin_memset(levels + count, 0, static_cast<size_t>(width - count));
  return m / 127.0f;
}

LORAMUX_PACKED_INLINE void PrepareIntRows(const Operand& operand, const float* x, int64_t stride,
                                          int64_t first_row, int64_t count) {
  const IntRows rows = IntRowsOf(operand);
  for (int64_t r = 0; r < count; ++r) {
    const float* in = x + r * stride;
    int8_t* levels = rows.levels + (first_row + r) * rows.stride;
    float* scales = rows.scales + (first_row + r) * rows.groups;
    for (int64_t g = 0; g < rows.groups; ++g) {
      const int64_t begin = g * operand.activation_group;
      const int64_t width = Smaller(operand.activation_group, operand.padded_k - begin);
      const int64_t left = operand.k - begin;
      scales[g] = RoundGroup(in + (left > 0 ? begin : 0), left > 0 ? Smaller(width, left) : 0,
                             width, levels + begin);
    }
    int32_t* sums = rows.sums + (first_row + r) * rows.sum_stride;
    int32_t sum = 0;
    for (int64_t b = 0; b < rows.sum_stride; ++b) {
      sums[b] = sum;
      if (b + 1 == rows.sum_stride) break;
      int32_t block = 0;
      for (int64_t i = 0; i < kSumBlock; ++i) block += levels[b * kSumBlock + i];
      sum += block;
    }
  }
}

// bfloat16 rows as elements of T: uint16_t, or float with the low half zero.
template <typename T>
LORAMUX_PACKED_INLINE int64_t Bf16Stride(const Operand& operand) {
  return operand.padded_k + kRowPadBytes / static_cast<int64_t>(sizeof(T));
}

LORAMUX_PACKED_INLINE uint32_t RoundedBf16Bits(float x) {
  const uint32_t bits = BitsOf(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  const uint32_t quiet = (bits & 0xffff0000u) | 0x400000u;
  return (bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
}

template <typename T>
LORAMUX_PACKED_INLINE void PrepareBf16Rows(const Operand& operand, const float* x, int64_t stride,
                                           int64_t first_row, int64_t count) {
  const int64_t out_stride = Bf16Stride<T>(operand);
  for (int64_t r = 0; r < count; ++r) {
    const float* in = x + r * stride;
    T* out = static_cast<T*>(operand.data) + (first_row + r) * out_stride;
    for (int64_t i = 0; i < operand.k; ++i) {
      const uint32_t bits = RoundedBf16Bits(in[i]);
      if (sizeof(T) == 2) {
        out[i] = static_cast<T>(bits >> 16);
      } else {
        __builtin_memcpy(out + i, &bits, sizeof(bits));
      }
    }
    for (int64_t i = operand.k; i < operand.padded_k; ++i) out[i] = T{};
  }
}

}  // namespace loramux::packed::LORAMUX_PACKED_NS
