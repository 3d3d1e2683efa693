#include "bench/ceiling_loops.h"

#include <cstring>

#include "loramux/cpu_features.h"

namespace loramux::bench {
namespace {

// Bytes ahead of the loads, by way of reading.
constexpr size_t kAhead[kReadWays] = {0, 1024, 4096, 16384};

#if defined(__x86_64__)
// Twelve independent accumulators in registers 0 to 11 hide the latency of two multiply-add units;
// 14 and 15 are the factors. All begin with the factors' bit pattern: nothing is a denormal.
// Assembly, since a compiler would fold the loop away. The assembler repeats an instruction whose
// last register is left out for each accumulator.
#define LORAMUX_EACH(instruction) \
  ".irp r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n" instruction "\\r\n" ".endr\n"

#define LORAMUX_VECTOR_LOOP(name, op, width, move, pattern)                            \
  void name(int64_t turns) {                                                           \
    alignas(64) uint32_t factor[16];                                                   \
    for (uint32_t& f : factor) f = pattern;                                            \
    asm volatile(move " (%1), %%" width "14\n" move " (%1), %%" width "15\n"           \
                 LORAMUX_EACH(move " (%1), %%" width)                                  \
                 "1:\n"                                                                \
                 LORAMUX_EACH(op " %%" width "14, %%" width "15, %%" width)            \
                 "dec %0\n"                                                            \
                 "jnz 1b\n"                                                            \
                 "vzeroupper\n"                                                        \
                 : "+r"(turns)                                                         \
                 : "r"(factor)                                                         \
                 : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",     \
                   "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm14", "xmm15"); \
  }

LORAMUX_VECTOR_LOOP(FmaAvx2, "vfmadd231ps", "ymm", "vmovups", 0x3f800000u)
LORAMUX_VECTOR_LOOP(FmaAvx512, "vfmadd231ps", "zmm", "vmovups", 0x3f800000u)
LORAMUX_VECTOR_LOOP(VnniAvx, "%{vex%} vpdpbusd", "ymm", "vmovups", 0x01010101u)
LORAMUX_VECTOR_LOOP(VnniAvx512, "vpdpbusd", "zmm", "vmovups", 0x01010101u)
LORAMUX_VECTOR_LOOP(Bf16Avx512, "vdpbf16ps", "zmm", "vmovups", 0x3f803f80u)

// Four accumulator tiles, two tiles on either side: the shape of a matrix product's inner loop.
#define LORAMUX_TILE_LOOP(name, op, pattern)                                           \
  void name(int64_t turns) {                                                           \
    alignas(64) uint8_t config[64] = {1};                                              \
    alignas(64) uint32_t factor[16 * 16];                                              \
    for (uint32_t& f : factor) f = pattern;                                            \
    for (int t = 0; t < 8; ++t) {                                                      \
      config[16 + 2 * t] = 64; /* bytes of a row */                                    \
      config[48 + t] = 16;     /* rows */                                              \
    }                                                                                  \
    const int64_t stride = 64;                                                         \
    asm volatile(                                                                      \
        "ldtilecfg (%1)\n"                                                             \
        "tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n"      \
        "tileloadd (%2,%3,1), %%tmm4\n tileloadd (%2,%3,1), %%tmm5\n"                  \
        "tileloadd (%2,%3,1), %%tmm6\n tileloadd (%2,%3,1), %%tmm7\n"                  \
        "1:\n" op " %%tmm6, %%tmm4, %%tmm0\n" op " %%tmm7, %%tmm4, %%tmm1\n" op        \
        " %%tmm6, %%tmm5, %%tmm2\n" op " %%tmm7, %%tmm5, %%tmm3\n"                     \
        "dec %0\n"                                                                     \
        "jnz 1b\n"                                                                     \
        "tilerelease\n"                                                                \
        : "+r"(turns)                                                                  \
        : "r"(config), "r"(factor), "r"(stride)                                        \
        : "cc", "memory");                                                             \
  }

LORAMUX_TILE_LOOP(Int8Amx, "tdpbssd", 0x01010101u)
LORAMUX_TILE_LOOP(Bf16Amx, "tdpbf16ps", 0x3f803f80u)
#endif

}  // namespace

std::vector<Loop> SupportedLoops() {
  std::vector<Loop> loops;
#if defined(__x86_64__)
  const auto add = [&](Isa isa, Loop loop) {
    if (IsSupported(isa)) loops.push_back(loop);
  };
  constexpr double kAccumulators = 12;
  constexpr double kTiles = 4;
  add(Isa::kAvx2, {"fma_avx2", kAccumulators * 8 * 2, FmaAvx2});
  add(Isa::kAvxVnni, {"vnni_avx", kAccumulators * 32 * 2, VnniAvx});
  add(Isa::kAvx512, {"fma_avx512", kAccumulators * 16 * 2, FmaAvx512});
  add(Isa::kAvx512Vnni, {"vnni_avx512", kAccumulators * 64 * 2, VnniAvx512});
  add(Isa::kAvx512Bf16, {"bf16_avx512", kAccumulators * 32 * 2, Bf16Avx512});
  add(Isa::kAmx, {"int8_amx", kTiles * 16 * 16 * 64 * 2, Int8Amx});
  add(Isa::kAmx, {"bf16_amx", kTiles * 16 * 16 * 32 * 2, Bf16Amx});
#endif
  return loops;
}

void ReadBytes(const uint8_t* p, size_t bytes, int way) {
  const size_t ahead = kAhead[way];
#if defined(__x86_64__)
  for (const uint8_t* end = p + bytes; p != end; p += 256) {
    if (ahead > 0) {
      for (size_t line = 0; line < 256; line += 64) __builtin_prefetch(p + ahead + line, 0, 3);
    }
    // One load of each line is enough to bring it in.
    asm volatile(
        "movdqa (%0), %%xmm0\n movdqa 64(%0), %%xmm1\n"
        "movdqa 128(%0), %%xmm2\n movdqa 192(%0), %%xmm3\n"
        :
        : "r"(p)
        : "memory", "xmm0", "xmm1", "xmm2", "xmm3");
  }
#else
  uint64_t sum = 0;
  for (const uint8_t* end = p + bytes; p != end; p += 64) {
    if (ahead > 0) __builtin_prefetch(p + ahead, 0, 3);
    uint64_t word;
    std::memcpy(&word, p, sizeof word);
    sum += word;
  }
  asm volatile("" : : "r"(sum));
#endif
}

}  // namespace loramux::bench
