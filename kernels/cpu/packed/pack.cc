// Float weights and foreign levels to packed panels, and back. Runs at import, so it is plain code.
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/packed/half.h"
#include "loramux/convert.h"
#include "loramux/packed_linear.h"

namespace loramux {
namespace {

constexpr float kInt8Max = 127.0f;
constexpr int32_t kInt4Zero = 8;
constexpr int32_t kInt4Max = 15;
constexpr uint8_t kInt8Zero = 128;  // of unsigned int8 levels without zero points
constexpr float kTiny = 0x1p-100f;  // a column below it is stored as zeros

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Depth [begin, end) of scale group g, padding left out.
struct Span {
  int64_t begin, end;
};
Span GroupSpan(const PackedShape& shape, int64_t g) {
  if (shape.group == 0) return {0, shape.k};
  const int64_t begin = g * shape.group;
  const int64_t end = begin + shape.group;
  return {begin < shape.k ? begin : shape.k, end < shape.k ? end : shape.k};
}
// Groups that hold weights.
int64_t RealGroups(const PackedShape& shape) {
  return shape.group == 0 ? 1 : CeilDiv(shape.k, shape.group);
}

// One panel on its way into the blob.
struct Panel {
  std::vector<uint8_t> levels;   // [16][padded_k]; int8 as two's complement
  std::vector<uint16_t> halves;  // [16][padded_k], bf16
  std::vector<float> scales;     // [groups][16] before the column scale is taken out
  std::vector<uint16_t> scale_bits;
  std::vector<int8_t> zeros;  // [groups][16]
  float column_scale[kPanelColumns] = {};
};

Panel MakePanel(const PackedShape& shape, const PackedLayout& layout) {
  Panel panel;
  const size_t cells = static_cast<size_t>(kPanelColumns * layout.padded_k);
  const size_t groups =
      static_cast<size_t>(kPanelColumns * (layout.groups > 0 ? layout.groups : 1));
  if (shape.format == PackedFormat::kBf16) {
    panel.halves.assign(cells, 0);
  } else {
    panel.levels.assign(cells, shape.format == PackedFormat::kInt4 ? kInt4Zero : 0);
    panel.scales.assign(groups, 0.0f);
    panel.scale_bits.assign(groups, 0);
    panel.zeros.assign(groups, kInt4Zero);
  }
  return panel;
}

void StorePanel(const PackedShape& shape, const PackedLayout& layout, int64_t index,
                const Panel& panel, uint8_t* blob) {
  uint8_t* out = blob + index * layout.panel_bytes;
  const int64_t k = layout.padded_k;
  if (shape.format == PackedFormat::kBf16) {
    const uint16_t* in = panel.halves.data();
    for (int64_t d = 0; d < k; d += 2) {
      for (int64_t c = 0; c < kPanelColumns; ++c, out += 4) std::memcpy(out, in + c * k + d, 4);
    }
    return;
  }
  const uint8_t* in = panel.levels.data();
  if (shape.format == PackedFormat::kInt8) {
    for (int64_t d = 0; d < k; d += 4) {
      for (int64_t c = 0; c < kPanelColumns; ++c, out += 4) std::memcpy(out, in + c * k + d, 4);
    }
  } else {
    for (int64_t d = 0; d < k; d += 8) {
      for (int64_t c = 0; c < kPanelColumns; ++c, out += 4) {
        uint32_t low, high;
        std::memcpy(&low, in + c * k + d, 4);
        std::memcpy(&high, in + c * k + d + 4, 4);
        low |= high << 4;
        std::memcpy(out, &low, 4);
      }
    }
  }
  const int64_t cells = layout.groups * kPanelColumns;
  if (layout.groups > 0) {
    std::memcpy(blob + layout.scales + index * cells * 2, panel.scale_bits.data(),
                static_cast<size_t>(cells) * 2);
  }
  if (shape.zero_points) {
    std::memcpy(blob + layout.zeros + index * cells, panel.zeros.data(),
                static_cast<size_t>(cells));
  }
  std::memcpy(blob + layout.column_scale + index * kPanelColumns * 4, panel.column_scale,
              sizeof(panel.column_scale));
}

// Splits the group scales of a column into float16 and a power of two. Afterwards panel.scales
// holds what the two parts make together.
void SplitScales(const PackedLayout& layout, int64_t column, Panel* panel) {
  float largest = 0.0f;
  for (int64_t g = 0; g < layout.groups; ++g) {
    const float scale = std::fabs(panel->scales[static_cast<size_t>(g * kPanelColumns + column)]);
    if (scale > largest) largest = scale;
  }
  if (largest == 0.0f) return;
  int exponent;
  std::frexp(largest, &exponent);  // largest in [2^(exponent - 1), 2^exponent)
  exponent -= 16;
  if (std::ldexp(largest, -exponent) > kLargestHalf) ++exponent;
  // Of scales so small that the power of two would not be a normal number, the halves become small.
  constexpr int kSmallestExponent = -126;
  if (exponent < kSmallestExponent) exponent = kSmallestExponent;
  panel->column_scale[column] = std::ldexp(1.0f, exponent);
  for (int64_t g = 0; g < layout.groups; ++g) {
    const size_t at = static_cast<size_t>(g * kPanelColumns + column);
    panel->scale_bits[at] = HalfFromFloat(std::ldexp(panel->scales[at], -exponent));
    panel->scales[at] = std::ldexp(FloatFromHalf(panel->scale_bits[at]), exponent);
  }
}

// Nearest even for |x| up to 2^21, and what clamping makes the same of beyond.
float RoundClamped(float x, float low, float high) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  x = x < low ? low : x;
  x = x > high ? high : x;
  return (x + kMagic) - kMagic;
}

struct Range {
  float low, high;
};
Range RangeOf(const float* w, Span span) {
  Range range = {0.0f, 0.0f};
  for (int64_t i = span.begin; i < span.end; ++i) {
    range.low = w[i] < range.low ? w[i] : range.low;
    range.high = w[i] > range.high ? w[i] : range.high;
  }
  return range;
}

float WantedScale(const PackedShape& shape, Range range) {
  const float magnitude = -range.low > range.high ? -range.low : range.high;
  if (magnitude < kTiny) return 0.0f;
  if (shape.format == PackedFormat::kInt8) return magnitude / kInt8Max;
  // The halves of the difference: the whole may be more than a float holds.
  if (shape.zero_points) return (range.high / 2 - range.low / 2) / (kInt4Max / 2.0f);
  return (-range.low > range.high ? range.low : range.high) / -kInt4Zero;
}

void FillLevels(const PackedShape& shape, const float* w, Span span, float scale, int32_t zero,
                uint8_t* levels) {
  if (scale == 0.0f) return;  // as the padding
  const bool int8 = shape.format == PackedFormat::kInt8;
  const float low = int8 ? -kInt8Max : static_cast<float>(-zero);
  const float high = int8 ? kInt8Max : static_cast<float>(kInt4Max - zero);
  const int32_t offset = int8 ? 0 : zero;
  for (int64_t i = span.begin; i < span.end; ++i) {
    const int32_t level = static_cast<int32_t>(RoundClamped(w[i] / scale, low, high)) + offset;
    levels[i] = static_cast<uint8_t>(level);
  }
}

void QuantizeColumn(const PackedShape& shape, const PackedLayout& layout, const float* w,
                    int64_t column, Panel* panel) {
  uint8_t* levels = panel->levels.data() + column * layout.padded_k;
  if (layout.groups == 0) {
    const float scale = WantedScale(shape, RangeOf(w, {0, shape.k}));
    panel->column_scale[column] = scale;
    FillLevels(shape, w, {0, shape.k}, scale, kInt4Zero, levels);
    return;
  }
  for (int64_t g = 0; g < layout.groups; ++g) {
    const float scale = WantedScale(shape, RangeOf(w, GroupSpan(shape, g)));
    panel->scales[static_cast<size_t>(g * kPanelColumns + column)] = scale;
  }
  SplitScales(layout, column, panel);
  for (int64_t g = 0; g < layout.groups; ++g) {
    const Span span = GroupSpan(shape, g);
    const size_t at = static_cast<size_t>(g * kPanelColumns + column);
    const float scale = panel->scales[at];
    int32_t zero = kInt4Zero;
    if (shape.zero_points && scale != 0.0f) {
      zero = static_cast<int32_t>(
          RoundClamped(-RangeOf(w, span).low / scale, 0.0f, static_cast<float>(kInt4Max)));
      panel->zeros[at] = static_cast<int8_t>(zero);
    }
    FillLevels(shape, w, span, scale, zero, levels);
  }
}

// Row of the source as floats. False where one is not finite.
bool ReadRow(const PackSource& source, const PackedShape& shape, int64_t row, float* out) {
  const WeightDtype dtype = static_cast<WeightDtype>(source.dtype);
  const size_t k = static_cast<size_t>(shape.k);
  const uint8_t* from =
      static_cast<const uint8_t*>(source.weights) + static_cast<size_t>(row) * k *
                                                        WeightDtypeBytes(dtype);
  ConvertToF32(from, dtype, k, out, 1.0f, Isa::kScalar);
  return AllFinite(out, k, Isa::kScalar);
}

bool RoundColumn(const float* w, int64_t k, uint16_t* out) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < k; ++i) {
    uint32_t bits;
    std::memcpy(&bits, w + i, 4);
    bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    bad |= (bits & 0x7f80u) == 0x7f80u;
    out[i] = static_cast<uint16_t>(bits);
  }
  return bad == 0;
}

bool LevelsColumn(const PackLevelsSource& source, const PackedShape& shape,
                  const PackedLayout& layout, int64_t row, int64_t column, Panel* panel) {
  const bool int8 = shape.format == PackedFormat::kInt8;
  const int64_t groups = RealGroups(shape);
  const float* scales = source.scales + row * groups;
  uint8_t* levels = panel->levels.data() + column * layout.padded_k;
  for (int64_t g = 0; g < groups; ++g) {
    if (!std::isfinite(scales[g])) return false;
    int32_t zero = int8 ? kInt8Zero : kInt4Zero;
    if (source.zeros != nullptr) zero = source.zeros[row * groups + g];
    if (!int8 && (shape.zero_points ? zero > kMaxPackedZero : zero != kInt4Zero)) return false;
    if (layout.groups == 0) {
      panel->column_scale[column] = scales[g];
    } else {
      const size_t at = static_cast<size_t>(g * kPanelColumns + column);
      panel->scales[at] = scales[g];
      panel->zeros[at] = static_cast<int8_t>(int8 ? 0 : zero);
    }
    const Span span = GroupSpan(shape, g);
    for (int64_t i = span.begin; i < span.end; ++i) {
      const int32_t level = source.levels[row * shape.k + i];
      if (int8 ? level - zero < -127 || level - zero > 127 : level > kInt4Max) return false;
      levels[i] = static_cast<uint8_t>(int8 ? level - zero : level);
    }
  }
  if (layout.groups > 0) SplitScales(layout, column, panel);
  return true;
}

// The shape as levels see it: rotation fills the padded depth.
PackedShape LevelShape(const PackedShape& shape) {
  PackedShape levels = shape;
  if (shape.rotated) levels.k = LayoutOf(shape).padded_k;
  return levels;
}

}  // namespace

bool PackPanels(const PackSource& source, const PackedShape& shape, int64_t first, int64_t last,
                uint8_t* blob) {
  const PackedLayout layout = LayoutOf(shape);
  const PackedShape levels = LevelShape(shape);
  std::vector<float> row(static_cast<size_t>(layout.padded_k));
  for (int64_t p = first; p < last; ++p) {
    Panel panel = MakePanel(shape, layout);
    for (int64_t c = 0; c < kPanelColumns && p * kPanelColumns + c < shape.n; ++c) {
      if (!ReadRow(source, shape, p * kPanelColumns + c, row.data())) return false;
      if (shape.format == PackedFormat::kBf16) {
        uint16_t* out = panel.halves.data() + c * layout.padded_k;
        if (!RoundColumn(row.data(), shape.k, out)) return false;
        continue;
      }
      if (shape.rotated) {
        for (int64_t d = shape.k; d < layout.padded_k; ++d) row[static_cast<size_t>(d)] = 0.0f;
        Rotate(row.data(), layout.padded_k, Isa::kScalar);
        UnscaleRotated(row.data(), layout.padded_k);
        if (!AllFinite(row.data(), row.size(), Isa::kScalar)) return false;
      }
      QuantizeColumn(levels, layout, row.data(), c, &panel);
    }
    StorePanel(shape, layout, p, panel, blob);
  }
  return true;
}

bool PackLevels(const PackLevelsSource& source, const PackedShape& shape, int64_t first,
                int64_t last, uint8_t* blob) {
  if (shape.rotated) return false;
  const PackedLayout layout = LayoutOf(shape);
  for (int64_t p = first; p < last; ++p) {
    Panel panel = MakePanel(shape, layout);
    for (int64_t c = 0; c < kPanelColumns && p * kPanelColumns + c < shape.n; ++c) {
      if (!LevelsColumn(source, shape, layout, p * kPanelColumns + c, c, &panel)) return false;
    }
    StorePanel(shape, layout, p, panel, blob);
  }
  return true;
}

void UnpackPanels(const PackedWeight& weight, int64_t first, int64_t last, float* out) {
  const PackedShape& shape = weight.shape;
  const PackedLayout layout = LayoutOf(shape);
  const float* column_scales = reinterpret_cast<const float*>(weight.blob + layout.column_scale);
  const int64_t depth = LevelShape(shape).k;
  std::vector<float> padded(static_cast<size_t>(shape.rotated ? depth : 0));
  for (int64_t p = first; p < last; ++p) {
    const uint8_t* panel = weight.blob + p * layout.panel_bytes;
    for (int64_t c = 0; c < kPanelColumns && p * kPanelColumns + c < shape.n; ++c) {
      float* const target = out + (p * kPanelColumns + c) * shape.k;
      float* const row = shape.rotated ? padded.data() : target;
      if (shape.format == PackedFormat::kBf16) {
        for (int64_t d = 0; d < shape.k; ++d) {
          uint16_t half;
          std::memcpy(&half, panel + ((d / 2) * kPanelColumns + c) * 4 + (d % 2) * 2, 2);
          const uint32_t bits = static_cast<uint32_t>(half) << 16;
          std::memcpy(row + d, &bits, 4);
        }
        continue;
      }
      const float column_scale = column_scales[p * kPanelColumns + c];
      for (int64_t d = 0; d < depth; ++d) {
        float scale = column_scale;
        int32_t zero = kInt4Zero;
        if (layout.groups > 0) {
          const int64_t at = (p * layout.groups + d / shape.group) * kPanelColumns + c;
          uint16_t half;
          std::memcpy(&half, weight.blob + layout.scales + at * 2, 2);
          scale *= FloatFromHalf(half);
          if (shape.zero_points) zero = static_cast<int8_t>(weight.blob[layout.zeros + at]);
        }
        int32_t level;
        if (shape.format == PackedFormat::kInt8) {
          level = static_cast<int8_t>(panel[((d / 4) * kPanelColumns + c) * 4 + d % 4]);
        } else {
          const uint8_t byte = panel[((d / 8) * kPanelColumns + c) * 4 + d % 4];
          level = (d % 8 < 4 ? byte & 15 : byte >> 4) - zero;
        }
        row[d] = static_cast<float>(level) * scale;
      }
      if (shape.rotated) {
        Rotate(row, depth, Isa::kScalar);
        std::memcpy(target, row, static_cast<size_t>(shape.k) * sizeof(float));
      }
    }
  }
}

}  // namespace loramux
