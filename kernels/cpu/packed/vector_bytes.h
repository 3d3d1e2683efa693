// Integer vectors of packed products, beside the floats of cpu/simd.h. Include after defining
// LORAMUX_SIMD_AVX2, LORAMUX_SIMD_AVX512 or LORAMUX_SIMD_NEON, and LORAMUX_PACKED_NS.
#pragma once

#include "cpu/simd.h"

#if defined(LORAMUX_SIMD_NEON)
#include "cpu/packed/vector_bytes_neon.h"
#else

namespace loramux::packed::LORAMUX_PACKED_NS {

using namespace loramux::LORAMUX_SIMD_NS;

#if defined(LORAMUX_SIMD_AVX512)
typedef __m512i VB;
#define LORAMUX_MM(name) _mm512_##name
#else
typedef __m256i VB;
#define LORAMUX_MM(name) _mm256_##name
#endif

LORAMUX_INLINE VB LoadBytes(const void* p) {
  VB v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
LORAMUX_INLINE void StoreBytes(void* p, VB v) { __builtin_memcpy(p, &v, sizeof(v)); }
LORAMUX_INLINE VB SetBytes(int x) { return LORAMUX_MM(set1_epi8)(static_cast<char>(x)); }
LORAMUX_INLINE VB SetShorts(int x) { return LORAMUX_MM(set1_epi16)(static_cast<short>(x)); }
LORAMUX_INLINE VB SetInts(int32_t x) { return LORAMUX_MM(set1_epi32)(x); }
LORAMUX_INLINE VB Xor(VB a, VB b) { return a ^ b; }
LORAMUX_INLINE VB And(VB a, VB b) { return a & b; }
LORAMUX_INLINE VB ShiftRight4(VB a) { return LORAMUX_MM(srli_epi16)(a, 4); }
LORAMUX_INLINE VB AddInts(VB a, VB b) { return LORAMUX_MM(add_epi32)(a, b); }
LORAMUX_INLINE VB SubInts(VB a, VB b) { return LORAMUX_MM(sub_epi32)(a, b); }
LORAMUX_INLINE VB MulInts(VB a, VB b) { return LORAMUX_MM(mullo_epi32)(a, b); }
LORAMUX_INLINE VB SubShorts(VB a, VB b) { return LORAMUX_MM(sub_epi16)(a, b); }
LORAMUX_INLINE VB MulShorts(VB a, VB b) { return LORAMUX_MM(madd_epi16)(a, b); }
LORAMUX_INLINE VF IntsToFloats(VB v) { return LORAMUX_MM(cvtepi32_ps)(v); }
LORAMUX_INLINE VF AsFloats(VB v) { return (VF)v; }
template <int kBits>
LORAMUX_INLINE VB ShiftLeft(VB v) {
  return LORAMUX_MM(slli_epi32)(v, kBits);
}
// As many as an instruction set has lanes of 32 bits.
LORAMUX_INLINE VB LoadSignedBytesAsInts(const void* p) {
#if defined(LORAMUX_SIMD_AVX512)
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
#else
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
#endif
}
#undef LORAMUX_MM

// Four bytes in every lane.
LORAMUX_INLINE VB RepeatInt(const void* p) {
  int32_t x;
  __builtin_memcpy(&x, p, sizeof(x));
  return SetInts(x);
}
LORAMUX_INLINE VB LowLevels(VB v) { return And(v, SetBytes(15)); }
LORAMUX_INLINE VB HighLevels(VB v) { return And(ShiftRight4(v), SetBytes(15)); }

}  // namespace loramux::packed::LORAMUX_PACKED_NS
#endif
