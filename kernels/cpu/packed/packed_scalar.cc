// Packed linear layers in plain C++: what processors without a path of their own run. The integer
// formats give the bits of every other instruction set.
#define LORAMUX_PACKED_NS scalar
#include "cpu/packed/half.h"
#include "cpu/packed/operand.h"

namespace loramux::packed::scalar {
namespace {

constexpr int kColumns = static_cast<int>(kPanelColumns);

int64_t OperandBytes(const Operand& operand) {
  if (operand.format != PackedFormat::kBf16) return IntRowsOf(operand).bytes;
  return Align64(operand.rows * Bf16Stride<float>(operand) * 4);
}

int64_t ScratchBytes(const Operand&, const PackedShape&) { return 0; }

void Prepare(const Operand& operand, const float* x, int64_t stride, int64_t first_row,
             int64_t count) {
  if (operand.format == PackedFormat::kBf16) {
    PrepareBf16Rows<float>(operand, x, stride, first_row, count);
  } else {
    PrepareIntRows(operand, x, stride, first_row, count);
  }
}

// Sums of products of levels of one inner group, zero points not yet taken off.
void DotInt8(const uint8_t* panel, const int8_t* a, int64_t begin, int64_t end, int32_t* sums) {
  for (int64_t d = begin; d < end; d += 4) {
    const int8_t* w = reinterpret_cast<const int8_t*>(panel) + d * kColumns;
    for (int c = 0; c < kColumns; ++c) {
      for (int j = 0; j < 4; ++j) sums[c] += a[d + j] * w[c * 4 + j];
    }
  }
}
void DotInt4(const uint8_t* panel, const int8_t* a, int64_t begin, int64_t end, int32_t* sums) {
  for (int64_t d = begin; d < end; d += 8) {
    const uint8_t* w = panel + d / 2 * kColumns;
    for (int c = 0; c < kColumns; ++c) {
      for (int j = 0; j < 4; ++j) {
        sums[c] += a[d + j] * (w[c * 4 + j] & 15) + a[d + 4 + j] * (w[c * 4 + j] >> 4);
      }
    }
  }
}

void IntTile(const MultiplyArgs& args, int64_t p, int64_t row, float* acc) {
  const PackedShape& shape = args.weight.shape;
  const PackedLayout& layout = args.layout;
  const IntRows rows = IntRowsOf(args.operand);
  const uint8_t* panel = args.weight.blob + p * layout.panel_bytes;
  const int8_t* a = rows.levels + row * rows.stride;
  const int32_t* level_sums = rows.sums + row * rows.sum_stride;
  const int64_t inner = InnerGroup(shape, args.operand.activation_group);
  for (int64_t begin = 0; begin < layout.padded_k; begin += inner) {
    const int64_t end = Smaller(begin + inner, layout.padded_k);
    int32_t sums[kColumns] = {};
    if (shape.format == PackedFormat::kInt8) {
      DotInt8(panel, a, begin, end, sums);
    } else {
      DotInt4(panel, a, begin, end, sums);
      const int32_t a_sum = level_sums[end / kSumBlock] - level_sums[begin / kSumBlock];
      const int64_t cell = layout.groups == 0 ? 0 : (p * layout.groups + begin / shape.group);
      for (int c = 0; c < kColumns; ++c) {
        int32_t zero = 8;
        if (shape.zero_points) zero = args.weight.blob[layout.zeros + cell * kColumns + c];
        sums[c] -= zero * a_sum;
      }
    }
    const float a_scale = rows.scales[row * rows.groups + begin / args.operand.activation_group];
    for (int c = 0; c < kColumns; ++c) {
      float sum = static_cast<float>(sums[c]);
      if (layout.groups > 0) {
        const int64_t cell = p * layout.groups + begin / shape.group;
        uint16_t half;
        __builtin_memcpy(&half, args.weight.blob + layout.scales + (cell * kColumns + c) * 2, 2);
        sum = sum * FloatFromHalf(half);
      }
      acc[c] = __builtin_fmaf(sum, a_scale, acc[c]);
    }
  }
  const float* scale = reinterpret_cast<const float*>(args.weight.blob + layout.column_scale);
  for (int c = 0; c < kColumns; ++c) acc[c] = acc[c] * scale[p * kColumns + c];
}

void Bf16Tile(const MultiplyArgs& args, int64_t p, int64_t row, float* acc) {
  const uint8_t* panel = args.weight.blob + p * args.layout.panel_bytes;
  const float* a =
      static_cast<const float*>(args.operand.data) + row * Bf16Stride<float>(args.operand);
  for (int64_t d = 0; d < args.layout.padded_k; d += 2) {
    for (int c = 0; c < kColumns; ++c) {
      uint32_t pair;
      __builtin_memcpy(&pair, panel + (d / 2 * kColumns + c) * 4, sizeof(pair));
      acc[c] = acc[c] + a[d] * FloatOf(pair << 16);
      acc[c] = acc[c] + a[d + 1] * FloatOf(pair & 0xffff0000u);
    }
  }
}

void Multiply(const MultiplyArgs& args) {
  for (int64_t p = args.first_panel; p < args.last_panel; ++p) {
    const int64_t column = p * kPanelColumns;
    const int64_t columns = Smaller(kPanelColumns, args.weight.shape.n - column);
    for (int64_t row = 0; row < args.operand.rows; ++row) {
      float acc[kColumns] = {};
      if (args.operand.format == PackedFormat::kBf16) {
        Bf16Tile(args, p, row, acc);
      } else {
        IntTile(args, p, row, acc);
      }
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t at = row * args.y_stride + column + c;
        float y = acc[c];
        if (args.bias != nullptr) y = y + args.bias[column + c];
        if (args.residual != nullptr) y = y + args.residual[at];
        args.y[at] = y;
      }
    }
  }
}

int64_t UnitPanels(const Operand&, const PackedShape&) { return 1; }

}  // namespace

const PackedTable kTable = {OperandBytes, ScratchBytes, Prepare, Multiply, UnitPanels, nullptr};

}  // namespace loramux::packed::scalar
