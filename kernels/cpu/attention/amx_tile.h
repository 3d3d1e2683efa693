// AMX tiles by hand. The compiler's own intrinsics (GCC 12) name no memory operand, so that stores
// before a tile load may be dropped or moved; here every access is a barrier for the compiler.
#pragma once

#include "cpu/amx_config.h"
#include "cpu/simd.h"

namespace loramux::LORAMUX_SIMD_NS {

constexpr int kTileBytes = 1024;  // 16 rows of 64 bytes; every tile here has this shape

inline void ConfigureTiles() {
  TileConfig config;
  for (int t = 0; t < 8; ++t) config.Set(t, 16, 64);
  config.Load();
}
inline void ReleaseTiles() { asm volatile("tilerelease" : : : "memory"); }

template <int kTile>
LORAMUX_INLINE void TileZero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile) : "memory");
}
template <int kTile>
LORAMUX_INLINE void TileLoad(const void* p, int64_t row_stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTile), "r"(p), "r"(row_stride) : "memory");
}
template <int kTile>
LORAMUX_INLINE void TileStore(void* p, int64_t row_stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(kTile), "r"(p), "r"(row_stride) : "memory");
}
// tile C [16, 16] float32 += A [16 rows, 32 bf16] * B [16 pairs, 16 columns, 2].
template <int kC, int kA, int kB>
LORAMUX_INLINE void TileDotBf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB) : "memory");
}
// tile C [16, 16] int32 += A [16 rows, 64 int8] * B [16 quads, 16 columns, 4].
template <int kC, int kA, int kB>
LORAMUX_INLINE void TileDotInt8() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB) : "memory");
}
// The same for A of uint8.
template <int kC, int kA, int kB>
LORAMUX_INLINE void TileDotUnsignedInt8() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB) : "memory");
}

}  // namespace loramux::LORAMUX_SIMD_NS
