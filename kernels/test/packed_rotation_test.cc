// Rotated weights: the transform itself, packing, and products on every instruction set.
#include <algorithm>
#include <cmath>

#include "loramux/cpu_features.h"
#include "test/check.h"
#include "test/packed_case.h"

namespace loramux::test {
namespace {

std::vector<PackedShape> RotatedKinds(int64_t n, int64_t k) {
  std::vector<PackedShape> kinds = AllPackedKinds(n, k);
  std::erase_if(kinds, [](const PackedShape& s) { return s.format == PackedFormat::kBf16; });
  for (PackedShape& shape : kinds) shape.rotated = true;
  return kinds;
}

std::vector<float> Rotated(std::vector<float> row, Isa isa) {
  Rotate(row.data(), static_cast<int64_t>(row.size()), isa);
  return row;
}

std::vector<float> Run(const PackedCase& c, Isa isa, int32_t threads,
                       std::vector<float>* prepared = nullptr) {
  std::vector<float> y(static_cast<size_t>(c.rows * c.shape.n), NAN);
  PackedLinearArgs args;
  args.x = c.x.data();
  args.x_stride = c.shape.k;
  args.rows = c.rows;
  args.k = c.shape.k;
  args.parts[0] = {c.Weight(), c.bias.empty() ? nullptr : c.bias.data()};
  args.activation_group = c.activation_group;
  args.residual = c.residual.empty() ? nullptr : c.residual.data();
  args.y = y.data();
  if (prepared != nullptr) {
    prepared->assign(c.x.size(), NAN);
    args.prepared = prepared->data();
  }
  AlignedBytes workspace(PackedLinearWorkspace(args, threads, isa));
  std::fill_n(workspace.data(), workspace.bytes(), uint8_t{0xa5});
  args.workspace = workspace.data();
  PackedLinear(args, ThreadPool(threads).Get(), isa);
  return y;
}

// A case whose weights are normal numbers: rotated shapes take no levels of others.
PackedCase MakeRotatedCase(const PackedShape& shape, int64_t rows, int32_t activation_group,
                           Random* random) {
  PackedShape plain = shape;
  plain.rotated = false;
  PackedCase c = MakePackedCase(plain, rows, activation_group, random);
  c.shape = shape;
  c.blob = PackRandom(shape, false, random);
  return c;
}

LORAMUX_TEST(RotationMixesByWalshAndHadamard) {
  Random random(Seed());
  for (int64_t k : {64, 128, 192, 256, 320, 448, 704, 1024}) {
    const size_t size = static_cast<size_t>(k);
    for (int round = 0; round < 8; ++round) {
      // One input alone: signs of its character within its block, at its place in four.
      const size_t one = static_cast<size_t>(random.Int(0, static_cast<int32_t>(k) - 1));
      std::vector<float> row(size);
      row[one] = 3.0f;
      size_t begin = 0, block = 0;
      for (begin = 0;; begin += block) {
        block = 256;
        while (block > size - begin) block /= 2;
        if (one < begin + block) break;
      }
      const std::vector<float> got = Rotated(row, Isa::kScalar);
      for (size_t i = 0; i < size; ++i) {
        float want = 0.0f;
        if (i >= begin && i < begin + block && (i - one) % 4 == 0) {
          const size_t bits = ((i - begin) / 4) & ((one - begin) / 4);
          want = __builtin_popcountll(bits) % 2 == 1 ? -3.0f : 3.0f;
        }
        if (!CHECK_THAT(got[i] == want, Format("k %d, input %d, output %d", static_cast<int>(k),
                                               static_cast<int>(one), static_cast<int>(i)))) {
          return;
        }
      }
    }
    const std::vector<float> row = random.Normals(size, 1.0f);
    for (Isa isa : SupportedIsas()) {
      const std::vector<float> once = Rotated(row, isa);
      CHECK_THAT(FirstDifference(once, Rotated(row, Isa::kScalar)) == 0, IsaName(isa));
      std::vector<float> back = Rotated(once, isa);
      UnscaleRotated(back.data(), k);
      CHECK_THAT(MaxAbsError(back, row) < 1e-5, IsaName(isa));
    }
  }
}

LORAMUX_TEST(RotatedWeightsComeBack) {
  Random random(Seed());
  for (int64_t k : {64, 100, 300, 576, 700}) {
    for (const PackedShape& shape : RotatedKinds(19, k)) {
      const std::vector<float> weights =
          random.Normals(static_cast<size_t>(shape.n * shape.k), 0.05f);
      const PackedLayout layout = LayoutOf(shape);
      AlignedBytes blob(layout.bytes);
      CHECK_THAT(PackPanels({weights.data(), 0}, shape, 0, layout.panels, blob.data()),
                 Describe(shape));
      std::vector<float> back(weights.size(), NAN);
      UnpackPanels({shape, blob.data()}, 0, layout.panels, back.data());
      double error = 0.0, power = 0.0;
      for (size_t i = 0; i < back.size(); ++i) {
        error += std::pow(static_cast<double>(back[i]) - static_cast<double>(weights[i]), 2);
        power += std::pow(static_cast<double>(weights[i]), 2);
      }
      const double bound = shape.format == PackedFormat::kInt8 ? 0.016 : 0.25;
      const double relative = std::sqrt(error / power);
      CHECK_THAT(relative < bound, Describe(shape) + Format(" relative error %g", relative));
      CHECK_THAT(shape.format == PackedFormat::kInt8 || relative > 0.01, Describe(shape));
    }
  }
}

LORAMUX_TEST(RotatedProductsMatchReference) {
  Random random(Seed());
  for (int round = 0; round < 60; ++round) {
    const std::vector<PackedShape> kinds =
        RotatedKinds(random.Int(1, 70), random.Int(1, 900));
    const PackedShape& shape = random.Pick(kinds);
    const int32_t group = random.Pick(ActivationGroups(shape));
    const PackedCase c = MakeRotatedCase(shape, random.Int(1, 40), group, &random);
    const std::vector<float> want = c.RunReference();
    const std::vector<float> scalar = Run(c, Isa::kScalar, 1);
    // Of the products before rotation, which are no larger by much.
    const std::vector<double> magnitudes = c.Magnitudes();
    for (Isa isa : SupportedIsas()) {
      std::vector<float> prepared;
      const std::vector<float> got = Run(c, isa, random.Int(1, 3), &prepared);
      const std::string where = Describe(shape) + Format(" rows %d activation group %d %s",
                                                         static_cast<int>(c.rows), group,
                                                         IsaName(isa));
      CHECK_THAT(FirstDifference(got, scalar) == 0, where + " differs from scalar");
      CHECK_THAT(FirstDifference(prepared, c.x) == 0, where + ": rows for adapters");
      double worst = 0.0;
      for (size_t i = 0; i < got.size(); ++i) {
        const double error =
            std::fabs(static_cast<double>(got[i]) - static_cast<double>(want[i])) /
            (magnitudes[i] + 1e-30);
        worst = error <= worst ? worst : error;
      }
      CHECK_THAT(worst <= 0x1p-18, where + Format(" error %g", worst));
    }
    // A row alone.
    const int64_t row = random.Int(0, static_cast<int32_t>(c.rows) - 1);
    const std::vector<float> alone = Run(c.Rows(row, 1), SupportedIsas().back(), 1);
    const std::vector<float> among(scalar.begin() + row * shape.n,
                                   scalar.begin() + (row + 1) * shape.n);
    CHECK_THAT(FirstDifference(alone, among) == 0, Describe(shape) + " row alone");
  }
}

// What it is for: a large input costs the others little.
LORAMUX_TEST(RotationKeepsSmallInputsBesideLargeOnes) {
  Random random(Seed());
  const int64_t n = 64, k = 512;
  const std::vector<float> weights = random.Normals(static_cast<size_t>(n * k), 0.05f);
  PackedCase c;
  c.rows = 8;
  c.x = random.Normals(static_cast<size_t>(c.rows * k), 1.0f);
  for (int64_t r = 0; r < c.rows; ++r) c.x[static_cast<size_t>(r * k + 37)] = 60.0f;
  double errors[2] = {};
  for (bool rotated : {false, true}) {
    c.shape = {PackedFormat::kInt8, n, k, 0, false, rotated};
    const PackedLayout layout = LayoutOf(c.shape);
    c.blob = AlignedBytes(layout.bytes);
    PackPanels({weights.data(), 0}, c.shape, 0, layout.panels, c.blob.data());
    const std::vector<float> got = Run(c, SupportedIsas().back(), 1);
    for (int64_t r = 0; r < c.rows; ++r) {
      for (int64_t o = 0; o < n; ++o) {
        double want = 0.0;
        for (int64_t i = 0; i < k; ++i) {
          want += static_cast<double>(c.x[static_cast<size_t>(r * k + i)]) *
                  static_cast<double>(weights[static_cast<size_t>(o * k + i)]);
        }
        errors[rotated] += std::pow(static_cast<double>(got[static_cast<size_t>(r * n + o)]) -
                                        want, 2);
      }
    }
  }
  CHECK_THAT(errors[1] < errors[0] / 4, Format("squares of errors %g, rotated %g", errors[0],
                                               errors[1]));
}

}  // namespace
}  // namespace loramux::test
