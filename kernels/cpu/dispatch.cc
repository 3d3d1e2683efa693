// Entry points of the kernel API: choose the instruction set's table, and what needs none.
#include <cstring>
#include <initializer_list>

#include "cpu/kernel_table.h"

namespace loramux {

const KernelTable& KernelsFor(Isa isa) {
#if defined(LORAMUX_HAVE_X86_ISAS)
  if (isa >= Isa::kAvx512) return isa_avx512::kTable;
  if (isa >= Isa::kAvx2) return isa_avx2::kTable;
#elif defined(LORAMUX_HAVE_ARM64_ISAS)
  if (isa >= Isa::kNeon) return isa_neon::kTable;
#else
  (void)isa;
#endif
  return isa_scalar::kTable;
}

void ConvertToF32(const void* src, WeightDtype dtype, size_t count, float* dst, float scale,
                  Isa isa) {
  KernelsFor(isa).convert(src, dtype, count, dst, scale);
}

void ConvertTransposedToF32(const void* src, WeightDtype dtype, int64_t rows, int64_t cols,
                            float* dst, float scale, Isa isa) {
  KernelsFor(isa).convert_transposed(src, dtype, rows, cols, dst, scale);
}

bool AllFinite(const float* values, size_t count, Isa isa) {
  return KernelsFor(isa).all_finite(values, count);
}

}  // namespace loramux
