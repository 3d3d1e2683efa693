// The table of an instruction set with vectors, from its products of bfloat16 and of levels.
#pragma once

#if !defined(LORAMUX_SIMD_NEON)  // which has that in dot_neon_impl.h
#include "cpu/packed/dot_bf16_impl.h"
#endif

namespace loramux::packed::LORAMUX_PACKED_NS {

LORAMUX_INLINE bool IsInt(PackedFormat format) { return format != PackedFormat::kBf16; }

int64_t OperandBytes(const Operand& operand) {
  if (IsInt(operand.format)) return IntOperandBytes(operand);
  return Align64(operand.rows * RowBytes(operand, sizeof(Bf16Element)));
}

int64_t ScratchBytes(const Operand&, const PackedShape& shape) {
  switch (shape.format) {
    case PackedFormat::kBf16:
      return StripScratch(kBf16Tiles);
    case PackedFormat::kInt8:
      return StripScratch(kInt8Tiles);
    case PackedFormat::kInt4:
      return StripScratch(kInt4Tiles);
  }
  return 0;
}

void Prepare(const Operand& operand, const float* x, int64_t stride, int64_t first_row,
             int64_t count) {
  if (IsInt(operand.format)) {
    PrepareInt(operand, x, stride, first_row, count);
  } else {
    PrepareBf16Rows<Bf16Element>(operand, x, stride, first_row, count);
  }
}

LORAMUX_INLINE void MultiplyBf16(const MultiplyArgs& args) {
  Tile tile = {};
  tile.rows = static_cast<const uint8_t*>(args.operand.data);
  tile.row_bytes = RowBytes(args.operand, sizeof(Bf16Element));
  MultiplyStrips(args, kBf16Tiles, tile, RowBlock(args.operand, sizeof(Bf16Element)));
}

void Multiply(const MultiplyArgs& args) {
  switch (args.operand.format) {
    case PackedFormat::kBf16:
      return MultiplyBf16(args);
    case PackedFormat::kInt8:
      return MultiplyInt8(args);
    case PackedFormat::kInt4:
      return MultiplyInt4(args);
  }
}

int64_t UnitPanels(const Operand& operand, const PackedShape& shape) {
  // Whole groups of streams.
  if (operand.rows > kRowBlockMin) return kStreamPanels;
  const int64_t fit = MinOf<int64_t>(16, kUnitBytes / LayoutOf(shape).panel_bytes);
  return MaxOf(kStreamPanels, fit / kStreamPanels * kStreamPanels);
}

extern const PackedTable kTable = {OperandBytes, ScratchBytes, Prepare,
                                  Multiply,     UnitPanels,   nullptr};

}  // namespace loramux::packed::LORAMUX_PACKED_NS
