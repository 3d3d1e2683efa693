// What the AMX kernels of SegmentedLora share. Included by files compiled for AMX alone.
#pragma once

#include <immintrin.h>

#include "cpu/amx_config.h"
#include "cpu/lora/lora_kernels.h"

#define LORAMUX_INLINE static inline __attribute__((always_inline))
// GCC's tile intrinsics do not say which memory they read and write; these do.
#define LORAMUX_TILE_LOAD(tile, from, stride)              \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(from), \
                   "r"(static_cast<int64_t>(stride)) : "memory")
#define LORAMUX_TILE_STORE(tile, to, stride)               \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), \
                   "r"(static_cast<int64_t>(stride)) : "memory")
#define LORAMUX_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::: "memory")
// `dot` is the instruction: tdpbf16ps, tdpbssd, tdpbusd.
#define LORAMUX_TILE_DOT(dot, sum, left, right) \
  __asm__ volatile(#dot " %%tmm" #right ", %%tmm" #left ", %%tmm" #sum ::: "memory")

namespace loramux::lora::amx {
namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kLine = 64;
// Bytes. Tiles wait for all of their lines, so further ahead than vectors.
constexpr int64_t kWeightsAhead = 2 * kFetchAhead;

LORAMUX_INLINE int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
LORAMUX_INLINE int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
LORAMUX_INLINE __mmask16 FirstLanes(int64_t n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff)
                 : static_cast<__mmask16>((1u << (n > 0 ? n : 0)) - 1);
}

LORAMUX_INLINE void Release() { __asm__ volatile("tilerelease" ::: "memory"); }

LORAMUX_INLINE void Fetch(const char* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kLine) _mm_prefetch(from + kWeightsAhead + i, _MM_HINT_T0);
}

// Of a shrink. Tiles 0 to 3: sums of two blocks of rows (the second may be empty), high and low
// part, lines of `line` bytes. 4, 5 and 7: rows of x. 6: `depth` lines of weights.
LORAMUX_INLINE void ConfigureShrink(int64_t rows0, int64_t rows1, int64_t depth, int64_t line) {
  TileConfig config;
  config.Set(0, rows0, line);
  config.Set(1, rows0, line);
  config.Set(4, rows0, kLine);
  config.Set(5, rows0, kLine);
  config.Set(6, depth, line);
  if (rows1 > 0) {
    config.Set(2, rows1, line);
    config.Set(3, rows1, line);
    config.Set(7, rows1, kLine);
  }
  config.Load();
}

LORAMUX_INLINE void ZeroShrinkSums(int64_t rows1) {
  LORAMUX_TILE_ZERO(0);
  LORAMUX_TILE_ZERO(1);
  if (rows1 > 0) {
    LORAMUX_TILE_ZERO(2);
    LORAMUX_TILE_ZERO(3);
  }
}

}  // namespace
}  // namespace loramux::lora::amx
