// Portable vectors of four floats (GCC and Clang vector extensions): SSE2 on x86-64, NEON on arm64.
#pragma once

#define LORAMUX_INLINE static inline __attribute__((always_inline))

namespace loramux::LORAMUX_SIMD_NS {

constexpr int kLanes = 4;
typedef float VF __attribute__((vector_size(16)));
// Rows x vectors of a register tile.
constexpr int kTileRows = 4;
constexpr int kTileCols = 2;

LORAMUX_INLINE VF Set1(float x) { return VF{x, x, x, x}; }
LORAMUX_INLINE VF Zero() { return VF{}; }
LORAMUX_INLINE VF Load(const float* p) {
  VF v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
LORAMUX_INLINE VF LoadN(const float* p, int n) {
  VF v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
LORAMUX_INLINE void Store(float* p, VF v) { __builtin_memcpy(p, &v, sizeof(v)); }
LORAMUX_INLINE void StoreN(float* p, VF v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v[i];
}
LORAMUX_INLINE VF LoadBf16N(const uint16_t* p, int n) {
  typedef uint32_t U4 __attribute__((vector_size(16)));
  U4 bits{};
  for (int i = 0; i < n; ++i) bits[i] = static_cast<uint32_t>(p[i]) << 16;
  return (VF)bits;
}
LORAMUX_INLINE VF LoadBf16(const uint16_t* p) { return LoadBf16N(p, kLanes); }
// Four IEEE half floats. Moving the exponent into place leaves it 112 short, which one exact
// multiplication by 2^112 makes good, for subnormals too; infinities and NaN get all exponent bits.
typedef uint16_t Halves __attribute__((vector_size(8)));
LORAMUX_INLINE VF WidenF16(Halves v) {
  typedef uint32_t U4 __attribute__((vector_size(16)));
  typedef int32_t I4 __attribute__((vector_size(16)));
  const U4 bits = __builtin_convertvector(v, U4);
  const U4 magnitude = bits & 0x7fffu;
  const U4 special = (U4)((I4)magnitude > 0x7bff);
  const U4 nan = (U4)((I4)magnitude > 0x7c00);
  const VF scaled = (VF)(magnitude << 13) * 0x1p112f;
  const U4 finite = (U4)scaled & ~special;
  const U4 rest = ((magnitude << 13) | 0x7f800000u) & special;
  return (VF)(finite | rest | (nan & 0x400000u) | ((bits & 0x8000u) << 16));
}

// Four levels.
typedef int8_t VI8 __attribute__((vector_size(4)));
LORAMUX_INLINE VF WidenI8(VI8 v) { return __builtin_convertvector(v, VF); }

// Not fused: a processor without the instruction would call a library function per lane.
LORAMUX_INLINE VF Fma(VF a, VF b, VF c) { return a * b + c; }
// As x86: the second operand when either is NaN.
LORAMUX_INLINE VF Max(VF a, VF b) { return a > b ? a : b; }
LORAMUX_INLINE float ReduceAdd(VF v) { return (v[0] + v[2]) + (v[1] + v[3]); }
LORAMUX_INLINE float ReduceMax(VF v) {
  const float a = v[0] > v[2] ? v[0] : v[2];
  const float b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}
// Bit i is set when lane i compares true.
LORAMUX_INLINE uint32_t GreaterMask(VF a, VF b) {
  uint32_t mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= static_cast<uint32_t>(a[i] > b[i]) << i;
  return mask;
}
// Lanes in [lo, hi) of v, fill elsewhere. lo and hi may lie outside [0, kLanes).
LORAMUX_INLINE VF KeepRange(VF v, int lo, int hi, float fill) {
  for (int i = 0; i < kLanes; ++i) {
    if (i < lo || i >= hi) v[i] = fill;
  }
  return v;
}
LORAMUX_INLINE void Transpose(VF (&v)[kLanes]) {
  VF t[kLanes];
  for (int i = 0; i < kLanes; ++i) t[i] = VF{v[0][i], v[1][i], v[2][i], v[3][i]};
  for (int i = 0; i < kLanes; ++i) v[i] = t[i];
}

}  // namespace loramux::LORAMUX_SIMD_NS
