// Adapter weights in memory, in the order in which SegmentedLora reads them.
//
// float32: A [rank, in] as it is stored, B transposed [rank, out]. bfloat16: pairs along the
// summed dimension lie side by side, as dot-product instructions (AMX, AVX512-BF16) want them, and
// what one thread reads is contiguous:
//   A  [panels of 16 ranks][inputs / 2][ranks of the panel][2]; the last panel is as narrow as the
//      ranks that are left, inputs are padded with zeros to a multiple of 32
//   B  [panels of 16 outputs][ranks / 2][16][2]; the last panel and an odd rank are padded with
//      zeros
// int8: levels -127 to 127 in fours along the summed dimension, then float32 scales, one for a
// rank and 1024 inputs of A or outputs of B (a group): weight = level * scale.
//   A  [panels of 16 ranks][inputs / 4][ranks of the panel][4], inputs padded with zeros to a
//      multiple of 64; scales [groups of inputs][rank]
//   B  [panels of 16 outputs][ranks / 4][16][4], ranks padded with zeros to a multiple of 4, the
//      last panel too; scales [groups of outputs][padded ranks]
// Scales of B belong to ranks rather than outputs: of those there are as many as bytes per rank, so
// at rank 8 a scale each would add half again to B.
#pragma once

#include "loramux/convert.h"
#include "loramux/types.h"

namespace loramux {

enum class LoraDtype : int32_t { kF32 = 0, kBf16 = 1, kI8 = 2 };
const char* LoraDtypeName(LoraDtype dtype);

inline constexpr int64_t kLoraPanel = 16;
inline constexpr int64_t kLoraInputMultiple = 32;
inline constexpr int64_t kLoraInputMultipleI8 = 64;
inline constexpr int64_t kLoraRankMultipleI8 = 4;
inline constexpr int64_t kLoraGroup = 1024;
inline constexpr float kLoraMaxLevel = 127.0f;
// A group of int8 weights whose largest is below this is zero.
inline constexpr float kLoraSmallestI8 = 0x1p-100f;
inline constexpr int32_t kMaxLoraRank = 4096;

// Bytes of A and B, padding and scales included.
int64_t LoraBytesA(LoraDtype dtype, int64_t rank, int64_t in);
int64_t LoraBytesB(LoraDtype dtype, int64_t rank, int64_t out);

// Writes LoraBytesA bytes from a stored [rank, in], LoraBytesB bytes from a stored [out, rank]
// times `scale` (rounded to float32, then to the dtype; 1 changes nothing). Sources may have any
// alignment, `to` is 4-byte aligned. Rounding is to nearest even: bfloat16 sources are kept bit
// for bit by float32 and bfloat16; as int8 the largest of a group becomes 127 or -127. The bytes
// are the same on every instruction set. False where a value written is not finite.
bool PackLoraA(const void* from, WeightDtype from_dtype, int64_t rank, int64_t in, LoraDtype dtype,
               void* to, Isa isa);
bool PackLoraB(const void* from, WeightDtype from_dtype, int64_t rank, int64_t out, float scale,
               LoraDtype dtype, void* to, Isa isa);

}  // namespace loramux
