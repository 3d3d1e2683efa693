// What this processor offers, beyond the instruction sets kernels are dispatched to.
#pragma once

#include <string>
#include <vector>

#include "loramux/types.h"

namespace loramux {

// Features this processor has and the operating system saves registers for, in a fixed order, out
// of: sse4.2 avx avx2 fma f16c avx_vnni avx512f avx512bw avx512vl avx512dq avx512_vnni avx512_bf16
// avx512_fp16 amx_tile amx_int8 amx_bf16 neon dotprod.
std::vector<std::string> CpuFeatures();

// Instruction sets that are compiled in and run here, weakest first; the last is DetectIsa(). Asks
// the operating system for AMX tiles where the processor has them.
std::vector<Isa> SupportedIsas();
bool IsSupported(Isa isa);

}  // namespace loramux
