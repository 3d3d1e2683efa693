// Products of levels whose operand is the levels of the rows and nothing else. The file that
// includes this has the tiles.
#pragma once

#include "cpu/packed/strip_impl.h"

namespace loramux::packed::LORAMUX_PACKED_NS {

LORAMUX_INLINE int64_t IntOperandBytes(const Operand& operand) { return IntRowsOf(operand).bytes; }
LORAMUX_INLINE void PrepareInt(const Operand& operand, const float* x, int64_t stride,
                               int64_t first_row, int64_t count) {
  PrepareIntRows(operand, x, stride, first_row, count);
}
LORAMUX_INLINE void MultiplyInt8(const MultiplyArgs& args) {
  MultiplyStrips(args, kInt8Tiles, IntTile(args), RowBlock(args.operand, 1));
}
LORAMUX_INLINE void MultiplyInt4(const MultiplyArgs& args) {
  MultiplyStrips(args, kInt4Tiles, IntTile(args), RowBlock(args.operand, 1));
}

}  // namespace loramux::packed::LORAMUX_PACKED_NS
