// Packed linear layers for AVX-512 with VNNI and BF16; compiled with those flags.
#define LORAMUX_PACKED_NS avx512_bf16
#define LORAMUX_SIMD_AVX512
#define LORAMUX_PACKED_BF16
#include "cpu/packed/dot_vnni_impl.h"
#include "cpu/packed/table_impl.h"
