// Which packed weights there are, and where their parts lie.
#include <cstring>

#include "loramux/convert.h"
#include "loramux/packed_linear.h"

namespace loramux {
namespace {

constexpr int64_t kSectionAlign = 64;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

bool IsGroupWidth(int32_t group) {
  if (group == kSmallestGroup || group == 64 || group == 128) return true;
  return group > 0 && group % 256 == 0;
}

}  // namespace

const char* PackedFormatName(PackedFormat format) {
  switch (format) {
    case PackedFormat::kBf16:
      return "bf16";
    case PackedFormat::kInt8:
      return "int8";
    case PackedFormat::kInt4:
      return "int4";
  }
  return "unknown";
}

bool IsValid(const PackedShape& shape) {
  const auto fits = [](int64_t size) { return size >= 1 && size <= kMaxPackedFeatures; };
  if (!fits(shape.n) || !fits(shape.k)) return false;
  switch (shape.format) {
    case PackedFormat::kBf16:
      return shape.group == 0 && !shape.zero_points && !shape.rotated;
    case PackedFormat::kInt8:
      return (shape.group == 0 || IsGroupWidth(shape.group)) && !shape.zero_points;
    case PackedFormat::kInt4:
      return shape.group == 0 ? !shape.zero_points : IsGroupWidth(shape.group);
  }
  return false;
}

bool IsValidActivationGroup(const PackedShape& shape, int32_t activation_group) {
  if (shape.format == PackedFormat::kBf16) return true;
  if (!IsGroupWidth(activation_group) || activation_group < kSmallestActivationGroup ||
      activation_group > kLargestActivationGroup) {
    return false;
  }
  if (shape.group == 0) return true;
  return shape.group % activation_group == 0 || activation_group % shape.group == 0;
}

int32_t InnerGroup(const PackedShape& shape, int32_t activation_group) {
  if (shape.format == PackedFormat::kBf16) return 0;
  if (shape.group == 0) return activation_group;
  return shape.group < activation_group ? shape.group : activation_group;
}

PackedLayout LayoutOf(const PackedShape& shape) {
  PackedLayout layout;
  layout.panels = CeilDiv(shape.n, kPanelColumns);
  layout.padded_k = RoundUp(shape.k, kDepthMultiple);
  const int64_t cells = layout.padded_k * kPanelColumns;
  const bool bf16 = shape.format == PackedFormat::kBf16;
  layout.panel_bytes = bf16 ? cells * 2 : shape.format == PackedFormat::kInt8 ? cells : cells / 2;
  int64_t end = layout.panels * layout.panel_bytes;
  const auto section = [&end](int64_t bytes) {
    const int64_t begin = end;
    end = RoundUp(begin + bytes, kSectionAlign);
    return begin;
  };
  if (shape.group > 0) {
    layout.groups = CeilDiv(layout.padded_k, shape.group);
    const int64_t scales = layout.panels * layout.groups * kPanelColumns;
    layout.scales = section(scales * 2);
    if (shape.zero_points) layout.zeros = section(scales);
  }
  if (!bf16) layout.column_scale = section(layout.panels * kPanelColumns * 4);
  layout.bytes = end;
  return layout;
}

bool HasUsableScales(const PackedWeight& weight) {
  const PackedLayout layout = LayoutOf(weight.shape);
  if (weight.shape.format == PackedFormat::kBf16) return true;
  const int64_t columns = layout.panels * kPanelColumns;
  const auto* column_scales = reinterpret_cast<const float*>(weight.blob + layout.column_scale);
  bool usable = AllFinite(column_scales, static_cast<size_t>(columns), Isa::kScalar);
  const int64_t cells = columns * layout.groups;
  for (int64_t i = 0; i < cells; ++i) {
    constexpr uint16_t kExponent = 0x7c00;
    uint16_t half;
    std::memcpy(&half, weight.blob + layout.scales + i * 2, 2);
    usable = usable && (half & kExponent) != kExponent;
  }
  for (int64_t i = 0; weight.shape.zero_points && i < cells; ++i) {
    usable = usable && weight.blob[layout.zeros + i] <= kMaxPackedZero;
  }
  return usable;
}

}  // namespace loramux
