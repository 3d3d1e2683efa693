// Conversion of stored weights to float32, for the adapter loader.
#pragma once

#include "loramux/types.h"

namespace loramux {

// Element type of a stored tensor, little endian.
enum class WeightDtype : int32_t { kF32 = 0, kF16 = 1, kBf16 = 2 };

constexpr size_t WeightDtypeBytes(WeightDtype dtype) { return dtype == WeightDtype::kF32 ? 4 : 2; }

// dst[i] = float(src[i]) * scale. src may have any alignment. Exact but for the one multiplication;
// subnormals, infinities and NaN are kept (scale 1 keeps every finite bit pattern).
void ConvertToF32(const void* src, WeightDtype dtype, size_t count, float* dst, float scale,
                  Isa isa);

// src [rows, cols] row-major -> dst [cols, rows], converted and scaled likewise. What makes
// LoraSegment::bt of a stored B. Same bits as ConvertToF32 followed by a transpose.
void ConvertTransposedToF32(const void* src, WeightDtype dtype, int64_t rows, int64_t cols,
                            float* dst, float scale, Isa isa);

// True when all values are finite.
bool AllFinite(const float* values, size_t count, Isa isa);

}  // namespace loramux
