// Kernels for AVX2 with FMA and F16C; compiled with those flags.
#define LORAMUX_SIMD_AVX2
#include "cpu/isa_table_impl.h"
