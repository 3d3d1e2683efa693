// Which table of packed linear layers an instruction set runs.
#include "cpu/packed/packed_table.h"

namespace loramux::packed {

const PackedTable& PackedKernelsFor(Isa isa) {
#if defined(LORAMUX_HAVE_X86_ISAS)
  if (isa == Isa::kAmx) return amx::kTable;
#endif
  (void)isa;
  return scalar::kTable;
}

}  // namespace loramux::packed
