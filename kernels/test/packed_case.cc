#include "test/packed_case.h"

#include <algorithm>
#include <cmath>

namespace loramux::test {

std::string Describe(const PackedShape& shape) {
  return Format("%s n %lld k %lld group %d%s%s", PackedFormatName(shape.format),
                static_cast<long long>(shape.n), static_cast<long long>(shape.k), shape.group,
                shape.zero_points ? " zero points" : "", shape.rotated ? " rotated" : "");
}

std::vector<PackedShape> AllPackedKinds(int64_t n, int64_t k) {
  std::vector<PackedShape> shapes = {{PackedFormat::kBf16, n, k, 0, false}};
  for (int32_t group : {0, 32, 64, 128, 256, 512}) {
    shapes.push_back({PackedFormat::kInt8, n, k, group, false});
    shapes.push_back({PackedFormat::kInt4, n, k, group, false});
    if (group > 0) shapes.push_back({PackedFormat::kInt4, n, k, group, true});
  }
  return shapes;
}

std::vector<int32_t> ActivationGroups(const PackedShape& shape) {
  if (shape.format == PackedFormat::kBf16) return {kActivationGroup};
  std::vector<int32_t> groups = {64, 128, 256, 512};
  std::erase_if(groups, [&](int32_t group) { return !IsValidActivationGroup(shape, group); });
  return groups;
}

AlignedBytes PackRandom(const PackedShape& shape, bool levels, Random* random) {
  const PackedLayout layout = LayoutOf(shape);
  AlignedBytes blob(layout.bytes);
  const size_t cells = static_cast<size_t>(shape.n * shape.k);
  if (!levels || shape.format == PackedFormat::kBf16) {
    const std::vector<float> weights = random->Normals(cells, 0.05f);
    PackPanels({weights.data(), 0}, shape, 0, layout.panels, blob.data());
    return blob;
  }
  const bool int8 = shape.format == PackedFormat::kInt8;
  const size_t groups =
      static_cast<size_t>(shape.group == 0 ? 1 : (shape.k + shape.group - 1) / shape.group);
  std::vector<uint8_t> level(cells), zeros(static_cast<size_t>(shape.n) * groups);
  std::vector<float> scales(zeros.size());
  for (uint8_t& l : level) {
    l = static_cast<uint8_t>(int8 ? random->Int(1, 255) : random->Int(0, 15));
  }
  for (uint8_t& z : zeros) z = static_cast<uint8_t>(random->Int(0, 16));
  for (float& s : scales) s = static_cast<float>(random->Int(1, 2047)) * 0x1p-18f;
  PackLevels({level.data(), scales.data(), shape.zero_points ? zeros.data() : nullptr}, shape, 0,
             layout.panels, blob.data());
  return blob;
}

PackedCase PackedCase::Rows(int64_t first, int64_t count) const {
  PackedCase part = *this;
  part.rows = count;
  part.x.assign(x.begin() + first * shape.k, x.begin() + (first + count) * shape.k);
  if (!residual.empty()) {
    part.residual.assign(residual.begin() + first * shape.n,
                         residual.begin() + (first + count) * shape.n);
  }
  return part;
}

std::vector<float> PackedCase::RunTable(Isa isa, int64_t unit) const {
  const packed::PackedTable& table = packed::PackedKernelsFor(isa);
  const PackedLayout layout = LayoutOf(shape);
  packed::MultiplyArgs args;
  packed::Operand& operand = args.operand;
  operand.format = shape.format;
  operand.rows = rows;
  operand.k = shape.k;
  operand.padded_k = layout.padded_k;
  operand.activation_group = activation_group;
  AlignedBytes data(table.operand_bytes(operand));
  AlignedBytes scratch(table.scratch_bytes(operand, shape));
  std::fill_n(data.data(), data.bytes(), uint8_t{0xa5});
  std::fill_n(scratch.data(), scratch.bytes(), uint8_t{0xa5});
  operand.data = data.data();
  // Pieces that divide no block, each ending with the block.
  constexpr int64_t kPiece = 5;
  for (int64_t first = 0, count = 0; first < rows; first += count) {
    const int64_t block_end = (first / packed::kRowsPerBlock + 1) * packed::kRowsPerBlock;
    count = std::min({kPiece, block_end - first, rows - first});
    table.prepare(operand, x.data() + first * shape.k, shape.k, first, count);
  }
  std::vector<float> y(static_cast<size_t>(rows * shape.n), NAN);
  args.weight = Weight();
  args.layout = layout;
  args.bias = bias.empty() ? nullptr : bias.data();
  args.residual = residual.empty() ? nullptr : residual.data();
  args.y = y.data();
  args.y_stride = shape.n;
  args.scratch = scratch.data();
  if (unit <= 0) unit = layout.panels;
  const int64_t chunk = table.unit_rows == nullptr ? rows : table.unit_rows(operand);
  for (args.first_row = 0; args.first_row < rows; args.first_row = args.last_row) {
    args.last_row = std::min(args.first_row + chunk, rows);
    for (int64_t panel = 0; panel < layout.panels; panel += unit) {
      args.first_panel = panel;
      args.last_panel = std::min(panel + unit, layout.panels);
      args.next_first = args.last_panel;
      args.next_last = std::min(args.next_first + unit, layout.panels);
      table.multiply(args);
    }
  }
  return y;
}

std::vector<float> PackedCase::RunReference() const {
  std::vector<float> y(static_cast<size_t>(rows * shape.n));
  PackedLinearArgs args;
  args.x = x.data();
  args.x_stride = shape.k;
  args.rows = rows;
  args.k = shape.k;
  args.parts[0] = {Weight(), bias.empty() ? nullptr : bias.data()};
  args.activation_group = activation_group;
  args.residual = residual.empty() ? nullptr : residual.data();
  args.y = y.data();
  reference::PackedLinear(args);
  return y;
}

std::vector<double> PackedCase::Magnitudes() const {
  std::vector<float> weights(static_cast<size_t>(shape.n * shape.k));
  UnpackPanels(Weight(), 0, LayoutOf(shape).panels, weights.data());
  std::vector<double> sums(static_cast<size_t>(rows * shape.n));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < shape.n; ++c) {
      const size_t at = static_cast<size_t>(r * shape.n + c);
      double sum = 0.0;
      for (int64_t i = 0; i < shape.k; ++i) {
        sum += std::fabs(static_cast<double>(x[static_cast<size_t>(r * shape.k + i)]) *
                         static_cast<double>(weights[static_cast<size_t>(c * shape.k + i)]));
      }
      if (!bias.empty()) sum += std::fabs(static_cast<double>(bias[static_cast<size_t>(c)]));
      if (!residual.empty()) sum += std::fabs(static_cast<double>(residual[at]));
      sums[at] = sum;
    }
  }
  return sums;
}

PackedCase MakePackedCase(const PackedShape& shape, int64_t rows, int32_t activation_group,
                          Random* random) {
  PackedCase c;
  c.shape = shape;
  c.rows = rows;
  c.activation_group = activation_group;
  c.blob = PackRandom(shape, random->Int(0, 1) == 1, random);
  c.x = random->Normals(static_cast<size_t>(rows * shape.k), 1.0f);
  // Outliers, as activations have them.
  for (int64_t i = 0; i < rows; ++i) c.x[static_cast<size_t>(i * shape.k)] *= 50.0f;
  if (random->Int(0, 1) == 1) c.bias = random->Normals(static_cast<size_t>(shape.n), 1.0f);
  if (random->Int(0, 1) == 1) {
    c.residual = random->Normals(static_cast<size_t>(rows * shape.n), 1.0f);
  }
  return c;
}

}  // namespace loramux::test
