// What is done to a row before a packed linear layer multiplies it.
#pragma once

#include "cpu/simd.h"
#include "loramux/packed_linear.h"

namespace loramux::LORAMUX_SIMD_NS {

LORAMUX_INLINE void RmsNormRow(const float* x, const float* weight, float eps, int64_t k,
                               float* out) {
  // Four chains of squares, added up in a fixed order.
  VF squares[4] = {Zero(), Zero(), Zero(), Zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= k; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const VF v = Load(x + i + j * kLanes);
      squares[j] = Fma(v, v, squares[j]);
    }
  }
  for (; i < k; i += kLanes) {
    const VF v = LoadN(x + i, static_cast<int>(MinOf<int64_t>(kLanes, k - i)));
    squares[0] = Fma(v, v, squares[0]);
  }
  const float sum = ReduceAdd((squares[0] + squares[1]) + (squares[2] + squares[3]));
  const float mean = sum / static_cast<float>(k);
  const VF inverse = Set1(1.0f / __builtin_sqrtf(mean + eps));
  for (i = 0; i < k; i += kLanes) {
    const int n = static_cast<int>(MinOf<int64_t>(kLanes, k - i));
    StoreN(out + i, LoadN(weight + i, n) * (LoadN(x + i, n) * inverse), n);
  }
}

// silu(g) = g / (1 + e^-g), from e^-|g|, which cannot overflow.
LORAMUX_INLINE VF Silu(VF g) {
  const VF e = ExpNonPositive((VF)((VU)g | 0x80000000u));
  const VI negative = g < Zero();
  const VF one = Set1(1.0f);
  const VF top = (VF)(((VU)e & (VU)negative) | ((VU)one & ~(VU)negative));
  return g * (top / (one + e));
}

inline void PrologueRow(const PackedLinearArgs& args, const float* x, float* out) {
  const int64_t k = args.k;
  if (args.prologue == Prologue::kRmsNorm) {
    RmsNormRow(x, args.norm, args.norm_eps, k, out);
  } else if (args.prologue == Prologue::kSwiGlu) {
    for (int64_t i = 0; i < k; i += kLanes) {
      const int n = static_cast<int>(MinOf<int64_t>(kLanes, k - i));
      StoreN(out + i, Silu(LoadN(x + i, n)) * LoadN(x + k + i, n), n);
    }
  } else {
    __builtin_memcpy(out, x, static_cast<size_t>(k) * sizeof(float));
  }
}

}  // namespace loramux::LORAMUX_SIMD_NS
