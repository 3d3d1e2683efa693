// The rotation of rows whose packed weights are rotated; see Rotate in packed_linear.h.
#pragma once

#include "cpu/simd.h"
#include "loramux/packed_linear.h"

namespace loramux::LORAMUX_SIMD_NS {

// Two butterfly stages at once, distances `far` and `far / 2`: half the loads and stores.
LORAMUX_INLINE void RotateStages(float* x, int64_t block, int64_t far) {
  const int64_t near = far / 2;
  for (int64_t base = 0; base < block; base += 2 * far) {
    float* a = x + base;
    float* b = a + near;
    float* c = a + far;
    float* d = c + near;
    for (int64_t i = 0; i < near; ++i) {
      const float ac = a[i] + c[i], a_c = a[i] - c[i];
      const float bd = b[i] + d[i], b_d = b[i] - d[i];
      a[i] = ac + bd;
      b[i] = ac - bd;
      c[i] = a_c + b_d;
      d[i] = a_c - b_d;
    }
  }
}

// One stage, distance `far`.
LORAMUX_INLINE void RotateStage(float* x, int64_t block, int64_t far) {
  for (int64_t base = 0; base < block; base += 2 * far) {
    float* a = x + base;
    float* b = a + far;
    for (int64_t i = 0; i < far; ++i) {
      const float sum = a[i] + b[i], difference = a[i] - b[i];
      a[i] = sum;
      b[i] = difference;
    }
  }
}

inline void RotateRow(float* row, int64_t padded_k) {
  int64_t at = 0;
  for (; at + 256 <= padded_k; at += 256) {
    RotateStages(row + at, 256, 128);
    RotateStages(row + at, 256, 32);
    RotateStages(row + at, 256, 8);
  }
  if (at + 128 <= padded_k) {
    RotateStages(row + at, 128, 64);
    RotateStages(row + at, 128, 16);
    RotateStage(row + at, 128, 4);
    at += 128;
  }
  if (at < padded_k) {
    RotateStages(row + at, 64, 32);
    RotateStages(row + at, 64, 8);
  }
}

}  // namespace loramux::LORAMUX_SIMD_NS
