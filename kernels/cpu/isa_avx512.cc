// Kernels for AVX-512 F, BW, VL, DQ; compiled with those flags.
#define LORAMUX_SIMD_AVX512
#include "cpu/isa_table_impl.h"
