// Quantized weights as GPTQ and AWQ checkpoints store them: levels and zero points in words of 32
// bits, scales beside them. The weight of an input i and an output c is
// (level(i, c) - zero(i / group, c)) * scale(i / group, c).
//   GPTQ (AutoGPTQ, GPTQModel): 4 or 8 bits. A word of qweight holds consecutive inputs of one
//     output, lowest bits first.
//   AWQ (AutoAWQ, "gemm"): 4 bits. A word of qweight holds 8 outputs of one input, in the order
//     0 2 4 6 1 3 5 7 from the lowest bits.
// A word of qzeros holds consecutive outputs (AWQ: in the same order) of one group.
#pragma once

#include "loramux/convert.h"
#include "loramux/types.h"

namespace loramux {

enum class LevelOrder : int32_t { kGptq = 0, kAwq = 1 };

struct CheckpointLevels {
  LevelOrder order = LevelOrder::kGptq;
  int32_t bits = 4;         // 4 or 8; AWQ 4
  int64_t n = 0;            // outputs, a multiple of 32 / bits
  int64_t k = 0;            // inputs; GPTQ: a multiple of 32 / bits
  int64_t group = 0;        // inputs per scale, at least 1
  int32_t zero_offset = 0;  // added to stored zero points, modulo 2^bits; 1 in GPTQ's first version
  // Little endian, any alignment.
  const uint8_t* qweight = nullptr;  // int32 [k * bits / 32, n], AWQ [k, n * bits / 32]
  const uint8_t* qzeros = nullptr;   // int32 [groups, n * bits / 32]
  const uint8_t* scales = nullptr;   // [groups, n]
  WeightDtype scale_dtype = WeightDtype::kF16;
};

// True when sizes and bits are as said above.
bool IsValid(const CheckpointLevels& source);
// ceil(k / group).
int64_t GroupsOf(const CheckpointLevels& source);
// Bytes that the arrays must have.
size_t QweightBytes(const CheckpointLevels& source);
size_t QzerosBytes(const CheckpointLevels& source);
size_t ScalesBytes(const CheckpointLevels& source);

// Outputs [first, first + count), count <= 16: levels [count, k], zeros and scales
// [count, groups_stride] of which GroupsOf(source) are written.
void UnpackColumns(const CheckpointLevels& source, int64_t first, int64_t count, uint8_t* levels,
                   int64_t groups_stride, uint8_t* zeros, float* scales);

}  // namespace loramux
