// Integer vectors of packed products, beside the floats of cpu/simd.h. Include after defining
// LORAMUX_SIMD_AVX2 or LORAMUX_SIMD_AVX512, and LORAMUX_PACKED_NS.
#pragma once

#include "cpu/simd.h"

namespace loramux::packed::LORAMUX_PACKED_NS {

using namespace loramux::LORAMUX_SIMD_NS;

#if defined(LORAMUX_SIMD_AVX512)
typedef __m512i VB;
LORAMUX_INLINE VB LoadBytes(const void* p) { return _mm512_loadu_si512(p); }
LORAMUX_INLINE void StoreBytes(void* p, VB v) { _mm512_storeu_si512(p, v); }
LORAMUX_INLINE VB SetBytes(int x) { return _mm512_set1_epi8(static_cast<char>(x)); }
LORAMUX_INLINE VB SetShorts(int x) { return _mm512_set1_epi16(static_cast<short>(x)); }
LORAMUX_INLINE VB SetInts(int32_t x) { return _mm512_set1_epi32(x); }
LORAMUX_INLINE VB NoBytes() { return _mm512_setzero_si512(); }
LORAMUX_INLINE VB Xor(VB a, VB b) { return _mm512_xor_si512(a, b); }
LORAMUX_INLINE VB And(VB a, VB b) { return _mm512_and_si512(a, b); }
LORAMUX_INLINE VB ShiftRight4(VB a) { return _mm512_srli_epi16(a, 4); }
LORAMUX_INLINE VB AddInts(VB a, VB b) { return _mm512_add_epi32(a, b); }
LORAMUX_INLINE VB SubInts(VB a, VB b) { return _mm512_sub_epi32(a, b); }
LORAMUX_INLINE VB MulInts(VB a, VB b) { return _mm512_mullo_epi32(a, b); }
LORAMUX_INLINE VB AddShorts(VB a, VB b) { return _mm512_add_epi16(a, b); }
// Unsigned times signed bytes, neighbours added, saturated to 16 bits.
LORAMUX_INLINE VB MulBytes(VB u, VB s) { return _mm512_maddubs_epi16(u, s); }
LORAMUX_INLINE VB MulShorts(VB a, VB b) { return _mm512_madd_epi16(a, b); }
LORAMUX_INLINE VF IntsToFloats(VB v) { return _mm512_cvtepi32_ps(v); }
LORAMUX_INLINE VB LoadSignedBytesAsInts(const void* p) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
LORAMUX_INLINE VF AsFloats(VB v) { return _mm512_castsi512_ps(v); }
template <int kBits>
LORAMUX_INLINE VB ShiftLeft(VB v) {
  return _mm512_slli_epi32(v, kBits);
}
#else
typedef __m256i VB;
LORAMUX_INLINE VB LoadBytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
LORAMUX_INLINE void StoreBytes(void* p, VB v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), v);
}
LORAMUX_INLINE VB SetBytes(int x) { return _mm256_set1_epi8(static_cast<char>(x)); }
LORAMUX_INLINE VB SetShorts(int x) { return _mm256_set1_epi16(static_cast<short>(x)); }
LORAMUX_INLINE VB SetInts(int32_t x) { return _mm256_set1_epi32(x); }
LORAMUX_INLINE VB NoBytes() { return _mm256_setzero_si256(); }
LORAMUX_INLINE VB Xor(VB a, VB b) { return _mm256_xor_si256(a, b); }
LORAMUX_INLINE VB And(VB a, VB b) { return _mm256_and_si256(a, b); }
LORAMUX_INLINE VB ShiftRight4(VB a) { return _mm256_srli_epi16(a, 4); }
LORAMUX_INLINE VB AddInts(VB a, VB b) { return _mm256_add_epi32(a, b); }
LORAMUX_INLINE VB SubInts(VB a, VB b) { return _mm256_sub_epi32(a, b); }
LORAMUX_INLINE VB MulInts(VB a, VB b) { return _mm256_mullo_epi32(a, b); }
LORAMUX_INLINE VB AddShorts(VB a, VB b) { return _mm256_add_epi16(a, b); }
LORAMUX_INLINE VB MulBytes(VB u, VB s) { return _mm256_maddubs_epi16(u, s); }
LORAMUX_INLINE VB MulShorts(VB a, VB b) { return _mm256_madd_epi16(a, b); }
LORAMUX_INLINE VF IntsToFloats(VB v) { return _mm256_cvtepi32_ps(v); }
LORAMUX_INLINE VB LoadSignedBytesAsInts(const void* p) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
}
LORAMUX_INLINE VF AsFloats(VB v) { return _mm256_castsi256_ps(v); }
template <int kBits>
LORAMUX_INLINE VB ShiftLeft(VB v) {
  return _mm256_slli_epi32(v, kBits);
}
#endif

// Four bytes in every lane.
LORAMUX_INLINE VB RepeatInt(const void* p) {
  int32_t x;
  __builtin_memcpy(&x, p, sizeof(x));
  return SetInts(x);
}
LORAMUX_INLINE VB LowLevels(VB v) { return And(v, SetBytes(15)); }
LORAMUX_INLINE VB HighLevels(VB v) { return And(ShiftRight4(v), SetBytes(15)); }

}  // namespace loramux::packed::LORAMUX_PACKED_NS
