// Vectors of eight floats: AVX2, FMA, F16C.
#pragma once

#include <immintrin.h>

#define LORAMUX_INLINE static inline __attribute__((always_inline))

namespace loramux::LORAMUX_SIMD_NS {

constexpr int kLanes = 8;
typedef __m256 VF;
// Rows x vectors of a register tile: 8 of 16 registers accumulate.
constexpr int kTileRows = 4;
constexpr int kTileCols = 2;

LORAMUX_INLINE VF Set1(float x) { return _mm256_set1_ps(x); }
LORAMUX_INLINE VF Zero() { return _mm256_setzero_ps(); }
// All ones in lanes below n.
LORAMUX_INLINE __m256i FirstLanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
LORAMUX_INLINE VF Load(const float* p) { return _mm256_loadu_ps(p); }
LORAMUX_INLINE VF LoadN(const float* p, int n) { return _mm256_maskload_ps(p, FirstLanes(n)); }
LORAMUX_INLINE void Store(float* p, VF v) { _mm256_storeu_ps(p, v); }
LORAMUX_INLINE void StoreN(float* p, VF v, int n) { _mm256_maskstore_ps(p, FirstLanes(n), v); }
LORAMUX_INLINE VF ShiftBf16(__m128i half) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
LORAMUX_INLINE VF LoadBf16(const uint16_t* p) {
  return ShiftBf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
LORAMUX_INLINE VF LoadBf16N(const uint16_t* p, int n) {
  __m128i half = _mm_setzero_si128();
  __builtin_memcpy(&half, p, static_cast<size_t>(n) * sizeof(uint16_t));
  return ShiftBf16(half);
}
// Eight IEEE half floats.
typedef uint16_t Halves __attribute__((vector_size(16)));
LORAMUX_INLINE VF WidenF16(Halves v) { return _mm256_cvtph_ps((__m128i)v); }

// Eight levels; __builtin_convertvector goes lane by lane here (GCC 12).
typedef int8_t VI8 __attribute__((vector_size(8)));
LORAMUX_INLINE VF WidenI8(VI8 v) {
  int64_t levels;
  __builtin_memcpy(&levels, &v, sizeof(levels));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(levels)));
}

LORAMUX_INLINE VF Fma(VF a, VF b, VF c) { return _mm256_fmadd_ps(a, b, c); }
LORAMUX_INLINE VF Max(VF a, VF b) { return _mm256_max_ps(a, b); }
LORAMUX_INLINE float ReduceAdd(VF v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
LORAMUX_INLINE float ReduceMax(VF v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
LORAMUX_INLINE uint32_t GreaterMask(VF a, VF b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
}
LORAMUX_INLINE VF KeepRange(VF v, int lo, int hi, float fill) {
  const __m256i keep = _mm256_andnot_si256(FirstLanes(lo), FirstLanes(hi));
  return _mm256_blendv_ps(_mm256_set1_ps(fill), v, _mm256_castsi256_ps(keep));
}
LORAMUX_INLINE void Transpose(VF (&v)[kLanes]) {
  VF t[kLanes];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  VF u[kLanes];
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

}  // namespace loramux::LORAMUX_SIMD_NS
