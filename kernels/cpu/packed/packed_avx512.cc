// Packed linear layers for AVX-512 F, BW, VL, DQ; compiled with those flags.
#define LORAMUX_PACKED_NS avx512
#define LORAMUX_SIMD_AVX512
#include "cpu/packed/dot_maddubs_impl.h"
#include "cpu/packed/table_impl.h"
