// IEEE half floats in plain code, for packing and the portable kernels.
#pragma once

#include <stdint.h>

namespace loramux {

static constexpr float kLargestHalf = 65504.0f;

// Nearest even; magnitudes from 65520 become infinity, NaN stays NaN.
static inline uint16_t HalfFromFloat(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  const uint32_t sign = (bits >> 16) & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Subnormal: 0.5 has its last bit where a half's last bit is, so the addition rounds.
    float f;
    __builtin_memcpy(&f, &magnitude, sizeof(f));
    f += 0.5f;
    __builtin_memcpy(&magnitude, &f, sizeof(f));
    return static_cast<uint16_t>(sign | (magnitude - 0x3f000000u));
  }
  magnitude += 0xc8000fffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | (magnitude >> 13));
}

// Exact.
static inline float FloatFromHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  uint32_t bits;
  if (magnitude >= 0x7c00u) {
    bits = (magnitude << 13) + 0x70000000u;
  } else if (magnitude >= 0x400u) {
    bits = (magnitude << 13) + 0x38000000u;
  } else {
    const float f = static_cast<float>(magnitude) * 0x1p-24f;
    __builtin_memcpy(&bits, &f, sizeof(bits));
  }
  bits |= sign;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace loramux
