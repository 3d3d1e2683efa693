// Kernels for NEON, which is part of arm64.
#define LORAMUX_SIMD_NEON
#include "cpu/isa_table_impl.h"
