// Vectors of four floats: NEON (ASIMD), which every arm64 processor has.
#pragma once

#include <arm_neon.h>

#define LORAMUX_INLINE static inline __attribute__((always_inline))

namespace loramux::LORAMUX_SIMD_NS {

constexpr int kLanes = 4;
typedef float32x4_t VF;
// Rows x vectors of a register tile: 16 of 32 registers accumulate.
constexpr int kTileRows = 4;
constexpr int kTileCols = 4;

LORAMUX_INLINE VF Set1(float x) { return vdupq_n_f32(x); }
LORAMUX_INLINE VF Zero() { return vdupq_n_f32(0.0f); }
LORAMUX_INLINE VF Load(const float* p) { return vld1q_f32(p); }
// Partial vectors in a pair and a single, for want of masked loads and stores.
LORAMUX_INLINE VF LoadN(const float* p, int n) {
  if (n >= kLanes) return vld1q_f32(p);
  if (n <= 0) return Zero();
  if (n == 1) return vsetq_lane_f32(p[0], Zero(), 0);
  const VF pair = vcombine_f32(vld1_f32(p), vdup_n_f32(0.0f));
  return n == 2 ? pair : vsetq_lane_f32(p[2], pair, 2);
}
LORAMUX_INLINE void Store(float* p, VF v) { vst1q_f32(p, v); }
LORAMUX_INLINE void StoreN(float* p, VF v, int n) {
  if (n >= kLanes) return vst1q_f32(p, v);
  if (n <= 0) return;
  if (n == 1) return vst1q_lane_f32(p, v, 0);
  vst1_f32(p, vget_low_f32(v));
  if (n == 3) vst1q_lane_f32(p + 2, v, 2);
}
LORAMUX_INLINE VF ShiftBf16(uint16x4_t half) {
  return vreinterpretq_f32_u32(vshll_n_u16(half, 16));
}
LORAMUX_INLINE VF LoadBf16(const uint16_t* p) { return ShiftBf16(vld1_u16(p)); }
LORAMUX_INLINE VF LoadBf16N(const uint16_t* p, int n) {
  uint64_t halves = 0;
  __builtin_memcpy(&halves, p, static_cast<size_t>(n) * sizeof(uint16_t));
  return ShiftBf16(vcreate_u16(halves));
}
// Four IEEE half floats.
typedef uint16_t Halves __attribute__((vector_size(8)));
LORAMUX_INLINE VF WidenF16(Halves v) { return vcvt_f32_f16((float16x4_t)v); }

// Four levels.
typedef int8_t VI8 __attribute__((vector_size(4)));
LORAMUX_INLINE VF WidenI8(VI8 v) {
  uint32_t levels;
  __builtin_memcpy(&levels, &v, sizeof(levels));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(levels)))));
}

LORAMUX_INLINE VF Fma(VF a, VF b, VF c) { return vfmaq_f32(c, a, b); }
// As x86: the second operand when either is NaN.
LORAMUX_INLINE VF Max(VF a, VF b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
LORAMUX_INLINE float ReduceAdd(VF v) {
  return vaddv_f32(vadd_f32(vget_low_f32(v), vget_high_f32(v)));
}
LORAMUX_INLINE float ReduceMax(VF v) {
  const float a = v[0] > v[2] ? v[0] : v[2];
  const float b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}
LORAMUX_INLINE uint32_t GreaterMask(VF a, VF b) {
  const uint32x4_t bits = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(vcgtq_f32(a, b), bits));
}
LORAMUX_INLINE VF KeepRange(VF v, int lo, int hi, float fill) {
  const int32x4_t iota = {0, 1, 2, 3};
  const uint32x4_t keep =
      vandq_u32(vcgeq_s32(iota, vdupq_n_s32(lo)), vcltq_s32(iota, vdupq_n_s32(hi)));
  return vbslq_f32(keep, v, vdupq_n_f32(fill));
}
LORAMUX_INLINE void Transpose(VF (&v)[kLanes]) {
  const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(v[0], v[1]));
  const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(v[0], v[1]));
  const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(v[2], v[3]));
  const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(v[2], v[3]));
  v[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
  v[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
  v[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
  v[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

}  // namespace loramux::LORAMUX_SIMD_NS
