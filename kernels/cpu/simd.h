// The vector abstraction that kernel bodies are written in. A translation unit compiled for one
// instruction set defines LORAMUX_SIMD_AVX2, LORAMUX_SIMD_AVX512, LORAMUX_SIMD_AMX or
// LORAMUX_SIMD_NEON (or none: portable) and includes this first; everything then lives in a
// namespace of that instruction set, so that the linker never merges code compiled for different
// ones. For the same reason kernel bodies use no templates or inline functions of the standard
// library: the linker keeps one copy of those, and it could be the one this processor cannot run.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(LORAMUX_SIMD_AMX)
#define LORAMUX_SIMD_NS isa_amx
#include "cpu/simd_avx512.h"
#elif defined(LORAMUX_SIMD_AVX512)
#define LORAMUX_SIMD_NS isa_avx512
#include "cpu/simd_avx512.h"
#elif defined(LORAMUX_SIMD_AVX2)
#define LORAMUX_SIMD_NS isa_avx2
#include "cpu/simd_avx2.h"
#elif defined(LORAMUX_SIMD_NEON)
#define LORAMUX_SIMD_NS isa_neon
#include "cpu/simd_neon.h"
#else
#define LORAMUX_SIMD_NS isa_scalar
#include "cpu/simd_portable.h"
#endif

namespace loramux::LORAMUX_SIMD_NS {

template <typename T>
LORAMUX_INLINE T MinOf(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
LORAMUX_INLINE T MaxOf(T a, T b) {
  return a < b ? b : a;
}
LORAMUX_INLINE int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

typedef int32_t VI __attribute__((vector_size(sizeof(VF))));
typedef uint32_t VU __attribute__((vector_size(sizeof(VF))));
typedef uint16_t VU16 __attribute__((vector_size(sizeof(VF) / 2)));

// Whole and partial loads and stores of cache elements. Partial: lanes at and past n are zero, and
// their memory is not touched.
LORAMUX_INLINE VF LoadKv(const float* p) { return Load(p); }
LORAMUX_INLINE VF LoadKvN(const float* p, int n) { return LoadN(p, n); }
LORAMUX_INLINE VF LoadKv(const uint16_t* p) { return LoadBf16(p); }
LORAMUX_INLINE VF LoadKvN(const uint16_t* p, int n) { return LoadBf16N(p, n); }
LORAMUX_INLINE VF LoadKv(const int8_t* p) {
  VI8 v;
  __builtin_memcpy(&v, p, sizeof(v));
  return WidenI8(v);
}
LORAMUX_INLINE VF LoadKvN(const int8_t* p, int n) {
  VI8 v = {};
  __builtin_memcpy(&v, p, static_cast<size_t>(n));
  return WidenI8(v);
}

// Stored weights, from memory of any alignment.
LORAMUX_INLINE VU16 LoadHalves(const void* p) {
  VU16 v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
LORAMUX_INLINE VF WidenBf16(VU16 v) { return (VF)(__builtin_convertvector(v, VU) << 16); }

// Rounds to nearest, ties to even; NaN stays NaN (quiet).
LORAMUX_INLINE VU16 RoundToBf16(VF v) {
  const VU bits = (VU)v;
  const VU rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VU quiet = (bits >> 16) | 0x40u;
  const VU is_nan = (VU)((VI)(bits & 0x7fffffffu) > 0x7f800000);
  return __builtin_convertvector((rounded & ~is_nan) | (quiet & is_nan), VU16);
}

LORAMUX_INLINE void StoreKvN(float* p, VF v, int n) { StoreN(p, v, n); }
LORAMUX_INLINE void StoreKvN(uint16_t* p, VF v, int n) {
  const VU16 b = RoundToBf16(v);
  __builtin_memcpy(p, &b, static_cast<size_t>(n) * sizeof(uint16_t));
}

// e^x for x <= 0 to about 1e-7 relative; e^0 is exactly 1, results below e^-87.3 are 0, NaN stays
// NaN. x = n ln2 + r (Cody-Waite), Taylor polynomial of degree 7 in r, |r| <= ln2 / 2.
LORAMUX_INLINE VF ExpNonPositive(VF x) {
  constexpr float kLowest = -87.3f;  // below, the scaled result would be subnormal
  const VF clamped = Max(Set1(kLowest), x);
  const VF shifted = Fma(clamped, Set1(1.44269504088896341f), Set1(12582912.0f));  // 1.5 * 2^23
  const VF n = shifted - Set1(12582912.0f);
  // The first part of ln 2 has 16 significant bits, so n times it is exact.
  VF r = Fma(n, Set1(-0.693145751953125f), clamped);
  r = Fma(n, Set1(-1.428606820309417e-6f), r);
  VF p = Set1(1.0f / 5040.0f);
  p = Fma(p, r, Set1(1.0f / 720.0f));
  p = Fma(p, r, Set1(1.0f / 120.0f));
  p = Fma(p, r, Set1(1.0f / 24.0f));
  p = Fma(p, r, Set1(1.0f / 6.0f));
  p = Fma(p, r, Set1(0.5f));
  p = Fma(p * r, r, r) + Set1(1.0f);
  // Unsigned: lanes that the caller will mask off may hold anything and wrap around.
  const VU scaled = (VU)p + ((VU)shifted << 23);
  const VU underflow = (VU)(x < Set1(kLowest));
  // The low bits of a NaN are not an exponent; adding them could turn it into a number.
  const VU nan = (VU)(x != x) & 0x7fc00000u;
  return (VF)((scaled & ~underflow) | nan);
}

// Doubles in eights, the same operations in the same order on every instruction set (no fused
// multiply-add), so that sampling decisions are the same bits everywhere.
typedef double D8 __attribute__((vector_size(64)));
typedef int64_t I8 __attribute__((vector_size(64)));
typedef uint64_t U8 __attribute__((vector_size(64)));

// e^x for x <= 0 to about 1e-14 relative; 0 below -700.
LORAMUX_INLINE D8 ExpNonPositive(D8 x) {
  constexpr double kLowest = -700.0;
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
  const I8 underflow = x < kLowest;
  const D8 clamped = (D8)(((I8)x & ~underflow) | ((I8)(D8{} + kLowest) & underflow));
  const D8 shifted = clamped * 1.4426950408889634 + kMagic;
  const D8 n = shifted - kMagic;
  // 32 significant bits first: n times it is exact.
  const D8 r = (clamped - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  D8 p = D8{} + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const U8 bits = (U8)p + ((U8)shifted << 52);
  return (D8)(bits & ~(U8)underflow);
}

}  // namespace loramux::LORAMUX_SIMD_NS
