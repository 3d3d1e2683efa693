// Packed linear layers for AVX-512 with VNNI; compiled with those flags.
#define LORAMUX_PACKED_NS avx512_vnni
#define LORAMUX_SIMD_AVX512
#include "cpu/packed/dot_vnni_impl.h"
#include "cpu/packed/table_impl.h"
