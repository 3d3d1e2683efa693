// Packed linear layers for NEON, which is part of arm64.
#define LORAMUX_PACKED_NS neon
#define LORAMUX_SIMD_NEON
#include "cpu/packed/dot_neon_impl.h"
#include "cpu/packed/table_impl.h"
