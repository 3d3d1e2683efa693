// Packed linear layers for NEON with dot products of bytes; compiled with those flags.
#define LORAMUX_PACKED_NS neon_dotprod
#define LORAMUX_SIMD_NEON
#define LORAMUX_PACKED_DOTPROD
#include "cpu/packed/dot_neon_impl.h"
#include "cpu/packed/table_impl.h"
