// Integer vectors of packed products on NEON: 16 bytes, 4 integers. Include vector_bytes.h instead.
#pragma once

namespace loramux::packed::LORAMUX_PACKED_NS {

using namespace loramux::LORAMUX_SIMD_NS;

typedef int32x4_t VB;

LORAMUX_INLINE VB LoadBytes(const void* p) {
  return vreinterpretq_s32_s8(vld1q_s8(static_cast<const int8_t*>(p)));
}
LORAMUX_INLINE void StoreBytes(void* p, VB v) {
  vst1q_s8(static_cast<int8_t*>(p), vreinterpretq_s8_s32(v));
}
LORAMUX_INLINE VB SetInts(int32_t x) { return vdupq_n_s32(x); }
LORAMUX_INLINE VB And(VB a, VB b) { return vandq_s32(a, b); }
LORAMUX_INLINE VB SubInts(VB a, VB b) { return vsubq_s32(a, b); }
LORAMUX_INLINE VB MulInts(VB a, VB b) { return vmulq_s32(a, b); }
LORAMUX_INLINE VF IntsToFloats(VB v) { return vcvtq_f32_s32(v); }
LORAMUX_INLINE VF AsFloats(VB v) { return vreinterpretq_f32_s32(v); }
template <int kBits>
LORAMUX_INLINE VB ShiftLeft(VB v) {
  return vshlq_n_s32(v, kBits);
}
// Four of them.
LORAMUX_INLINE VB LoadSignedBytesAsInts(const void* p) {
  uint32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
  return vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(bytes))));
}

// Four bytes in every lane.
LORAMUX_INLINE VB RepeatInt(const void* p) {
  int32_t x;
  __builtin_memcpy(&x, p, sizeof(x));
  return SetInts(x);
}
LORAMUX_INLINE VB LowLevels(VB v) {
  return vreinterpretq_s32_u8(vandq_u8(vreinterpretq_u8_s32(v), vdupq_n_u8(15)));
}
LORAMUX_INLINE VB HighLevels(VB v) {
  return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(v), 4));
}

}  // namespace loramux::packed::LORAMUX_PACKED_NS
