// Packed linear layers for AVX2 with FMA and F16C; compiled with those flags.
#define LORAMUX_PACKED_NS avx2
#define LORAMUX_SIMD_AVX2
#include "cpu/packed/dot_maddubs_impl.h"
#include "cpu/packed/table_impl.h"
