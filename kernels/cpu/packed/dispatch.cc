// Which table of packed linear layers an instruction set runs.
#include "cpu/packed/packed_table.h"

namespace loramux::packed {

const PackedTable& PackedKernelsFor(Isa isa) {
#if defined(LORAMUX_HAVE_X86_ISAS)
  switch (isa) {
    case Isa::kAmx:
      return amx::kTable;
    case Isa::kAvx512Bf16:
      return avx512_bf16::kTable;
    case Isa::kAvx512Vnni:
      return avx512_vnni::kTable;
    case Isa::kAvx512:
      return avx512::kTable;
    case Isa::kAvxVnni:
      return avx_vnni::kTable;
    case Isa::kAvx2:
      return avx2::kTable;
    default:
      break;
  }
#elif defined(LORAMUX_HAVE_ARM64_ISAS)
  if (isa == Isa::kNeonDotprod) return neon_dotprod::kTable;
  if (isa == Isa::kNeon) return neon::kTable;
#endif
  (void)isa;
  return scalar::kTable;
}

}  // namespace loramux::packed
