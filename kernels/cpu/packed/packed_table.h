// What an instruction set supplies for packed linear layers. cpu/packed/packed_linear.cc drives it:
// rows are prepared, at most kRowsPerBlock at a time (prologue, rounding, the set's own operand
// layout), then units of panels are multiplied with all rows or with chunks of them.
#pragma once

#include "loramux/packed_linear.h"

namespace loramux::packed {

inline constexpr int64_t kRowsPerBlock = 16;

// Activations of one call as an instruction set wants them. The set owns the layout behind `data`.
struct Operand {
  PackedFormat format = PackedFormat::kBf16;  // kInt4 and kInt8 share a layout
  int64_t rows = 0;
  int64_t k = 0;
  int64_t padded_k = 0;
  int32_t activation_group = 0;
  void* data = nullptr;  // operand_bytes(...), 64-byte aligned

  // Activation groups of a row; the last one may be narrower.
  int64_t Groups() const { return (padded_k + activation_group - 1) / activation_group; }
};

struct MultiplyArgs {
  Operand operand;
  PackedWeight weight;
  PackedLayout layout;
  int64_t first_panel = 0, last_panel = 0;
  int64_t first_row = 0, last_row = 0;  // of the unit: see unit_rows
  // Panels [next_first, next_last) are likely to be this worker's next unit: worth fetching.
  int64_t next_first = 0, next_last = 0;
  const float* bias = nullptr;      // [n] or null
  const float* residual = nullptr;  // row stride y_stride, at the part's first column; or null
  float* y = nullptr;               // row stride y_stride, at the part's first column
  int64_t y_stride = 0;
  void* scratch = nullptr;  // of this worker: scratch_bytes(...), 64-byte aligned
};

struct PackedTable {
  // Bytes of an operand (its `data` is not read).
  int64_t (*operand_bytes)(const Operand& operand);
  int64_t (*scratch_bytes)(const Operand& operand, const PackedShape& shape);
  // Rounds rows [first_row, first_row + count) into the operand, all of one block of kRowsPerBlock;
  // other threads may be at other rows of the block. x [count, stride] holds k floats per row;
  // depth k to padded_k becomes zero.
  void (*prepare)(const Operand& operand, const float* x, int64_t stride, int64_t first_row,
                  int64_t count);
  void (*multiply)(const MultiplyArgs& args);
  // Panels of a good unit of work for so many rows.
  int64_t (*unit_panels)(const Operand& operand, const PackedShape& shape);
  // Rows of a unit, a multiple of kRowsPerBlock where they are not all. Null: a unit has all rows.
  int64_t (*unit_rows)(const Operand& operand);
};

// The table of an instruction set, or of the next weaker one that has its own.
const PackedTable& PackedKernelsFor(Isa isa);

namespace scalar {
extern const PackedTable kTable;
}
namespace avx2 {
extern const PackedTable kTable;
}
namespace avx_vnni {
extern const PackedTable kTable;
}
namespace avx512 {
extern const PackedTable kTable;
}
namespace avx512_vnni {
extern const PackedTable kTable;
}
namespace avx512_bf16 {
extern const PackedTable kTable;
}
namespace amx {
extern const PackedTable kTable;
}
namespace neon {
extern const PackedTable kTable;
}
namespace neon_dotprod {
extern const PackedTable kTable;
}

}  // namespace loramux::packed
