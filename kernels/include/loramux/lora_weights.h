// Adapter weights in memory, in the order in which SegmentedLora reads them.
//
// float32: A [rank, in] as it is stored, B transposed [rank, out]. bfloat16: pairs along the
// summed dimension lie side by side, as dot-product instructions (AMX, AVX512-BF16) want them, and
// what one thread reads is contiguous:
//   A  [panels of 16 ranks][inputs / 2][ranks of the panel][2]; the last panel is as narrow as the
//      ranks that are left, inputs are padded with zeros to a multiple of 32
//   B  [panels of 16 outputs][ranks / 2][16][2]; the last panel and an odd rank are padded with
//      zeros
#pragma once

#include "loramux/convert.h"
#include "loramux/types.h"

namespace loramux {

enum class LoraDtype : int32_t { kF32 = 0, kBf16 = 1 };
const char* LoraDtypeName(LoraDtype dtype);

inline constexpr int64_t kLoraPanel = 16;
inline constexpr int64_t kLoraInputMultiple = 32;
inline constexpr int32_t kMaxLoraRank = 4096;

// Bytes of A and B, padding included.
int64_t LoraBytesA(LoraDtype dtype, int64_t rank, int64_t in);
int64_t LoraBytesB(LoraDtype dtype, int64_t rank, int64_t out);

// Writes LoraBytesA bytes from a stored [rank, in], LoraBytesB bytes from a stored [out, rank]
// times `scale` (rounded to float32, then to the dtype; 1 changes nothing). Sources may have any
// alignment, `to` is 4-byte aligned. Rounding is to nearest even: bfloat16 sources are kept bit
// for bit by either dtype. False where a value written is not finite.
bool PackLoraA(const void* from, WeightDtype from_dtype, int64_t rank, int64_t in, LoraDtype dtype,
               void* to, Isa isa);
bool PackLoraB(const void* from, WeightDtype from_dtype, int64_t rank, int64_t out, float scale,
               LoraDtype dtype, void* to, Isa isa);

}  // namespace loramux
