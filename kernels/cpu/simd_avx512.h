// Vectors of sixteen floats: AVX-512 F, BW, VL, DQ.
#pragma once

#include <immintrin.h>

#define LORAMUX_INLINE static inline __attribute__((always_inline))

namespace loramux::LORAMUX_SIMD_NS {

constexpr int kLanes = 16;
typedef __m512 VF;
// Rows x vectors of a register tile: 16 of 32 registers accumulate.
constexpr int kTileRows = 4;
constexpr int kTileCols = 4;

LORAMUX_INLINE VF Set1(float x) { return _mm512_set1_ps(x); }
LORAMUX_INLINE VF Zero() { return _mm512_setzero_ps(); }
// Bits below n; n in [0, 16].
LORAMUX_INLINE __mmask16 FirstLanes(int n) { return static_cast<__mmask16>((1u << n) - 1); }
LORAMUX_INLINE VF Load(const float* p) { return _mm512_loadu_ps(p); }
LORAMUX_INLINE VF LoadN(const float* p, int n) { return _mm512_maskz_loadu_ps(FirstLanes(n), p); }
LORAMUX_INLINE void Store(float* p, VF v) { _mm512_storeu_ps(p, v); }
LORAMUX_INLINE void StoreN(float* p, VF v, int n) { _mm512_mask_storeu_ps(p, FirstLanes(n), v); }
LORAMUX_INLINE VF ShiftBf16(__m256i half) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
LORAMUX_INLINE VF LoadBf16(const uint16_t* p) {
  return ShiftBf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
LORAMUX_INLINE VF LoadBf16N(const uint16_t* p, int n) {
  return ShiftBf16(_mm256_maskz_loadu_epi16(FirstLanes(n), p));
}
// Sixteen IEEE half floats.
typedef uint16_t Halves __attribute__((vector_size(32)));
LORAMUX_INLINE VF WidenF16(Halves v) { return _mm512_cvtph_ps((__m256i)v); }

// Sixteen levels; __builtin_convertvector goes lane by lane here (GCC 12).
typedef int8_t VI8 __attribute__((vector_size(16)));
LORAMUX_INLINE VF WidenI8(VI8 v) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)v));
}

LORAMUX_INLINE VF Fma(VF a, VF b, VF c) { return _mm512_fmadd_ps(a, b, c); }
LORAMUX_INLINE VF Max(VF a, VF b) { return _mm512_max_ps(a, b); }
LORAMUX_INLINE float ReduceAdd(VF v) {
  const __m256 lo = _mm512_castps512_ps256(v);
  const __m256 hi = _mm512_extractf32x8_ps(v, 1);
  const __m256 h = _mm256_add_ps(lo, hi);
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
LORAMUX_INLINE float ReduceMax(VF v) {
  const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
LORAMUX_INLINE uint32_t GreaterMask(VF a, VF b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
LORAMUX_INLINE VF KeepRange(VF v, int lo, int hi, float fill) {
  const __m512i iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __mmask16 keep = _mm512_cmpge_epi32_mask(iota, _mm512_set1_epi32(lo)) &
                         _mm512_cmplt_epi32_mask(iota, _mm512_set1_epi32(hi));
  return _mm512_mask_mov_ps(_mm512_set1_ps(fill), keep, v);
}
LORAMUX_INLINE void Transpose(VF (&v)[kLanes]) {
  VF t[kLanes];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
  }
  VF u[kLanes];
  for (int i = 0; i < 16; i += 4) {
    u[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
    u[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  // u[4g + j] holds, in 128-bit lane q, column 4q + j of rows 4g to 4g + 3.
  for (int j = 0; j < 4; ++j) {
    const VF a = _mm512_shuffle_f32x4(u[j], u[4 + j], 0x88);
    const VF b = _mm512_shuffle_f32x4(u[j], u[4 + j], 0xdd);
    const VF c = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0x88);
    const VF d = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0xdd);
    v[j] = _mm512_shuffle_f32x4(a, c, 0x88);
    v[4 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
    v[8 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
    v[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}

}  // namespace loramux::LORAMUX_SIMD_NS
