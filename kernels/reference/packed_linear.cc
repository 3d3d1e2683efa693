// Linear layers over packed weights as their header defines them, from unpacked weights, in double
// but for the roundings that are part of the definition.
#include "loramux/packed_linear.h"

#include <cmath>
#include <cstring>
#include <vector>

namespace loramux::reference {
namespace {

double Silu(double x) { return x / (1.0 + std::exp(-x)); }

// The row after the prologue, rounded to float32 as the kernels keep it.
std::vector<float> PreparedRow(const PackedLinearArgs& args, int64_t row) {
  const float* x = args.x + row * args.x_stride;
  const size_t k = static_cast<size_t>(args.k);
  std::vector<float> out(x, x + k);
  if (args.prologue == Prologue::kRmsNorm) {
    double squares = 0.0;
    for (size_t i = 0; i < k; ++i) squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    const double mean = squares / static_cast<double>(k);
    const double factor = 1.0 / std::sqrt(mean + static_cast<double>(args.norm_eps));
    for (size_t i = 0; i < k; ++i) {
      const double product = static_cast<double>(x[i]) * static_cast<double>(args.norm[i]);
      out[i] = static_cast<float>(product * factor);
    }
  } else if (args.prologue == Prologue::kSwiGlu) {
    for (size_t i = 0; i < k; ++i) {
      out[i] = static_cast<float>(Silu(static_cast<double>(x[i])) * static_cast<double>(x[k + i]));
    }
  }
  return out;
}

// Activations as they enter the product: rounded to int8 times their scale, or to bfloat16.
std::vector<double> RoundRow(const std::vector<float>& row, PackedFormat format, int32_t group) {
  std::vector<double> out(row.size());
  if (format == PackedFormat::kBf16) {
    for (size_t i = 0; i < row.size(); ++i) {
      uint32_t bits;
      std::memcpy(&bits, &row[i], sizeof(bits));
      if (!std::isnan(row[i])) bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
      float rounded;
      std::memcpy(&rounded, &bits, sizeof(rounded));
      out[i] = static_cast<double>(rounded);
    }
    return out;
  }
  const size_t width = static_cast<size_t>(group);
  for (size_t begin = 0; begin < row.size(); begin += width) {
    const size_t end = begin + width < row.size() ? begin + width : row.size();
    float largest = 0.0f;
    bool finite = true;
    for (size_t i = begin; i < end; ++i) {
      finite = finite && std::isfinite(row[i]);
      largest = std::fmax(largest, std::fabs(row[i]));
    }
    for (size_t i = begin; i < end; ++i) {
      if (!finite) {
        out[i] = std::nan("");
      } else if (largest >= 0x1p-100f) {
        const float level = std::nearbyint(row[i] * (127.0f / largest));
        out[i] = static_cast<double>(std::fmin(std::fmax(level, -127.0f), 127.0f)) *
                 static_cast<double>(largest / 127.0f);
      }
    }
  }
  return out;
}

// The padded row, rotated with the roundings that Rotate defines.
std::vector<float> RotatedRow(const std::vector<float>& row, const PackedShape& shape) {
  if (!shape.rotated) return row;
  std::vector<float> padded = row;
  padded.resize(static_cast<size_t>(LayoutOf(shape).padded_k), 0.0f);
  Rotate(padded.data(), static_cast<int64_t>(padded.size()), Isa::kScalar);
  return padded;
}

// The weight as its levels have it: a rotated one stays rotated and fills the padded depth.
std::vector<float> UnpackLevels(PackedWeight weight) {
  const PackedLayout layout = LayoutOf(weight.shape);
  if (weight.shape.rotated) {
    weight.shape.rotated = false;
    weight.shape.k = layout.padded_k;
  }
  std::vector<float> matrix(static_cast<size_t>(weight.shape.n * weight.shape.k));
  UnpackPanels(weight, 0, layout.panels, matrix.data());
  return matrix;
}

}  // namespace

void PackedLinear(const PackedLinearArgs& args) {
  int64_t columns = 0;
  for (int32_t p = 0; p < args.num_parts; ++p) columns += args.parts[p].weight.shape.n;
  std::vector<std::vector<float>> weights;
  for (int32_t p = 0; p < args.num_parts; ++p) {
    weights.push_back(UnpackLevels(args.parts[p].weight));
  }
  const PackedShape& shape = args.parts[0].weight.shape;
  for (int64_t row = 0; row < args.rows; ++row) {
    const std::vector<float> prepared = PreparedRow(args, row);
    if (args.prepared != nullptr) {
      std::memcpy(args.prepared + row * args.k, prepared.data(), prepared.size() * sizeof(float));
    }
    const std::vector<double> a =
        RoundRow(RotatedRow(prepared, shape), shape.format, args.activation_group);
    int64_t first = row * columns;
    for (int32_t p = 0; p < args.num_parts; ++p) {
      const PackedPart& part = args.parts[p];
      for (int64_t c = 0; c < part.weight.shape.n; ++c) {
        const float* w = weights[static_cast<size_t>(p)].data() + static_cast<size_t>(c) * a.size();
        double sum = 0.0;
        for (size_t i = 0; i < a.size(); ++i) sum += a[i] * static_cast<double>(w[i]);
        if (part.bias != nullptr) sum += static_cast<double>(part.bias[c]);
        if (args.residual != nullptr) sum += static_cast<double>(args.residual[first + c]);
        args.y[first + c] = static_cast<float>(sum);
      }
      first += part.weight.shape.n;
    }
  }
}

}  // namespace loramux::reference
