// Packs one weight for PackedLinear, panels spread over threads of its own. For the importer, which
// runs without a session.
#pragma once

#include <cstdint>

#include "loramux/checkpoint_levels.h"
#include "loramux/packed_linear.h"

namespace loramux {

inline constexpr int32_t kMaxPackThreads = 64;

struct PackResult {
  // False: a weight or a scale is NaN or infinite, or too large for its format.
  bool finite = true;
  // int8 levels of -128, which no blob holds, that became -127.
  int64_t clamped = 0;
  // Zero points that are not the middle of the range although the shape has none.
  int64_t odd_zeros = 0;
};

// Rows [first_row, first_row + rows) of a float weight into `blob`, LayoutOf(shape).bytes long.
// `weights` begins with row first_row. first_row is a multiple of kPanelColumns, and so is rows
// unless the last row is among them. Throws kInvalidArgument.
PackResult PackRows(const PackSource& weights, const PackedShape& shape, int64_t first_row,
                    int64_t rows, int32_t threads, uint8_t* blob);

// The levels of a GPTQ or AWQ checkpoint, unchanged. shape.group must be source.group; where the
// source has one group, it may also be 0 or anything of at least k. Throws kInvalidArgument.
PackResult PackCheckpointLevels(const CheckpointLevels& source, const PackedShape& shape,
                                int32_t threads, uint8_t* blob);

}  // namespace loramux
