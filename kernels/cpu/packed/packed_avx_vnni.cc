// Packed linear layers for AVX2 with AVX-VNNI; compiled with those flags.
#define LORAMUX_PACKED_NS avx_vnni
#define LORAMUX_SIMD_AVX2
#include "cpu/packed/dot_vnni_impl.h"
#include "cpu/packed/table_impl.h"
