#include "loramux/checkpoint_levels.h"

#include <cstring>

namespace loramux {
namespace {

// Where output c of a group of 8 lies within a word of AWQ.
constexpr int32_t kAwqPlace[8] = {0, 4, 1, 5, 2, 6, 3, 7};

uint32_t Word(const uint8_t* words, int64_t index) {
  uint32_t word;
  std::memcpy(&word, words + index * 4, 4);
  return word;
}

// Shift of output `column` within its word, where words hold outputs.
int32_t ColumnShift(const CheckpointLevels& source, int64_t column) {
  const auto place = static_cast<int32_t>(column % (32 / source.bits));
  return source.bits * (source.order == LevelOrder::kAwq ? kAwqPlace[place] : place);
}

}  // namespace

bool IsValid(const CheckpointLevels& source) {
  const bool bits = source.bits == 4 || (source.bits == 8 && source.order == LevelOrder::kGptq);
  if (!bits || source.n < 1 || source.k < 1 || source.group < 1) return false;
  const int64_t per_word = 32 / source.bits;
  return source.n % per_word == 0 &&
         (source.order == LevelOrder::kAwq || source.k % per_word == 0);
}

int64_t GroupsOf(const CheckpointLevels& source) {
  return (source.k + source.group - 1) / source.group;
}

size_t QweightBytes(const CheckpointLevels& source) {
  return static_cast<size_t>(source.n) * static_cast<size_t>(source.k) *
         static_cast<size_t>(source.bits) / 8;
}

size_t QzerosBytes(const CheckpointLevels& source) {
  return static_cast<size_t>(GroupsOf(source)) * static_cast<size_t>(source.n) *
         static_cast<size_t>(source.bits) / 8;
}

size_t ScalesBytes(const CheckpointLevels& source) {
  return static_cast<size_t>(GroupsOf(source)) * static_cast<size_t>(source.n) *
         WeightDtypeBytes(source.scale_dtype);
}

void UnpackColumns(const CheckpointLevels& source, int64_t first, int64_t count, uint8_t* levels,
                   int64_t groups_stride, uint8_t* zeros, float* scales) {
  const int32_t bits = source.bits;
  const int64_t per_word = 32 / bits;
  const uint32_t mask = (1u << bits) - 1;
  const int64_t row_words = source.n / per_word;
  if (source.order == LevelOrder::kGptq) {
    for (int64_t i = 0; i < source.k; i += per_word) {
      for (int64_t c = 0; c < count; ++c) {
        const uint32_t word = Word(source.qweight, i / per_word * source.n + first + c);
        uint8_t* out = levels + c * source.k + i;
        for (int64_t j = 0; j < per_word; ++j) {
          out[j] = static_cast<uint8_t>((word >> (bits * j)) & mask);
        }
      }
    }
  } else {
    for (int64_t i = 0; i < source.k; ++i) {
      for (int64_t c = 0; c < count; ++c) {
        const uint32_t word = Word(source.qweight, i * row_words + (first + c) / per_word);
        levels[c * source.k + i] =
            static_cast<uint8_t>((word >> ColumnShift(source, first + c)) & mask);
      }
    }
  }
  const int64_t groups = GroupsOf(source);
  const size_t scale_bytes = WeightDtypeBytes(source.scale_dtype);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t c = 0; c < count; ++c) {
      const uint32_t word = Word(source.qzeros, g * row_words + (first + c) / per_word);
      const uint32_t zero = (word >> ColumnShift(source, first + c)) & mask;
      zeros[c * groups_stride + g] =
          static_cast<uint8_t>((zero + static_cast<uint32_t>(source.zero_offset)) & mask);
      const size_t at = static_cast<size_t>(g * source.n + first + c) * scale_bytes;
      ConvertToF32(source.scales + at, source.scale_dtype, 1, scales + c * groups_stride + g, 1.0f,
                   Isa::kScalar);
    }
  }
}

}  // namespace loramux
