// Every instruction set's packed products against the reference. Tolerances are multiples of the
// sum of magnitudes of the products: 2^-20 for int8 and int4 (float32 additions once per group),
// 2^-18 for bf16 (float32 additions of thousands of products).
#include <algorithm>
#include <cmath>

#include "loramux/cpu_features.h"
#include "test/check.h"
#include "test/packed_case.h"

namespace loramux::test {
namespace {

double Tolerance(const PackedShape& shape) {
  return shape.format == PackedFormat::kBf16 ? 0x1p-18 : 0x1p-20;
}

std::string Where(const PackedCase& c, Isa isa) {
  return Describe(c.shape) + Format(" rows %d activation group %d %s", static_cast<int>(c.rows),
                                    c.activation_group, IsaName(isa));
}

// Against the reference on every instruction set; integers the same bits on all.
void CheckCase(const PackedCase& c, Random* random) {
  const std::vector<float> want = c.RunReference();
  const std::vector<double> magnitudes = c.Magnitudes();
  const std::vector<float> scalar = c.RunTable(Isa::kScalar, 0);
  for (Isa isa : SupportedIsas()) {
    const std::vector<float> got = c.RunTable(isa, random->Int(0, 3));
    double worst = 0.0;
    for (size_t i = 0; i < got.size(); ++i) {
      const double error =
          std::fabs(static_cast<double>(got[i]) - static_cast<double>(want[i])) /
          (magnitudes[i] + 1e-30);
      worst = error <= worst ? worst : error;
    }
    CHECK_THAT(worst <= Tolerance(c.shape), Where(c, isa) + Format(" error %g", worst));
    if (c.shape.format != PackedFormat::kBf16) {
      CHECK_THAT(FirstDifference(got, scalar) == 0, Where(c, isa) + " differs from scalar");
    }
  }
}

LORAMUX_TEST(PackedTablesMatchReferenceOverKinds) {
  Random random(Seed());
  const int64_t sizes[][2] = {{1, 1}, {16, 64}, {17, 65}, {50, 700}, {129, 1030}};
  for (const auto& size : sizes) {
    for (const PackedShape& shape : AllPackedKinds(size[0], size[1])) {
      for (int32_t group : ActivationGroups(shape)) {
        CheckCase(MakePackedCase(shape, random.Int(1, 9), group, &random), &random);
      }
    }
  }
}

LORAMUX_TEST(PackedTablesMatchReferenceOverRows) {
  Random random(Seed());
  for (int64_t rows = 1; rows <= 70; ++rows) {
    const std::vector<PackedShape> kinds =
        AllPackedKinds(random.Int(1, 70), random.Int(1, 12) * 64 - random.Int(0, 63));
    const PackedShape& shape = kinds[static_cast<size_t>(rows) % kinds.size()];
    CheckCase(MakePackedCase(shape, rows, kActivationGroup, &random), &random);
  }
}

// Rows so long that few of them fit a cache: units are chunks of rows.
LORAMUX_TEST(PackedTablesMatchReferenceOverChunksOfRows) {
  Random random(Seed());
  for (PackedFormat format : {PackedFormat::kBf16, PackedFormat::kInt8, PackedFormat::kInt4}) {
    const int32_t group = format == PackedFormat::kBf16 ? 0 : 256;
    const PackedShape shape = {format, 24, 24'576, group, false};
    CheckCase(MakePackedCase(shape, 70, kActivationGroup, &random), &random);
  }
}

LORAMUX_TEST(PackedTablesFuzz) {
  Random random(Seed());
  for (int round = 0; round < 150; ++round) {
    const std::vector<PackedShape> kinds =
        AllPackedKinds(random.Int(1, 100), random.Int(1, 1200));
    const PackedShape& shape = random.Pick(kinds);
    const int32_t group = random.Pick(ActivationGroups(shape));
    CheckCase(MakePackedCase(shape, random.Int(1, 40), group, &random), &random);
  }
}

// A row's bits: alone, first, last, in the middle, with any number of others, in any unit.
LORAMUX_TEST(PackedTablesGiveRowsTheSameBitsInEveryBatch) {
  Random random(Seed());
  constexpr int64_t kRows = 70;
  for (const PackedShape& shape : AllPackedKinds(67, 577)) {
    PackedCase c = MakePackedCase(shape, kRows, kActivationGroup, &random);
    for (Isa isa : SupportedIsas()) {
      const std::vector<float> all = c.RunTable(isa, 0);
      for (int64_t unit : {1, 2, 3}) {
        CHECK_THAT(FirstDifference(c.RunTable(isa, unit), all) == 0,
                   Where(c, isa) + Format(" unit %d", static_cast<int>(unit)));
      }
      for (int64_t count : {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 16, 17, 25, 32, 33, 48, 63}) {
        for (int64_t first : {int64_t{0}, kRows - count, int64_t{random.Int(0, 70 - 63)}}) {
          if (first + count > kRows) continue;
          const std::vector<float> got = c.Rows(first, count).RunTable(isa, random.Int(0, 2));
          const std::vector<float> want(all.begin() + first * shape.n,
                                        all.begin() + (first + count) * shape.n);
          CHECK_THAT(FirstDifference(got, want) == 0,
                     Where(c, isa) + Format(" rows %d from %d", static_cast<int>(count),
                                            static_cast<int>(first)));
        }
      }
    }
  }
}

// Levels and activations at their ends must not overflow anything narrower than 32 bits.
LORAMUX_TEST(PackedTablesSurviveTheLargestProducts) {
  for (const PackedShape& shape : AllPackedKinds(33, 2048)) {
    if (shape.format == PackedFormat::kBf16) continue;
    const bool int8 = shape.format == PackedFormat::kInt8;
    const int64_t groups = shape.group == 0 ? 1 : shape.k / shape.group;
    for (int pattern = 0; pattern < 4; ++pattern) {
      const uint8_t level =
          static_cast<uint8_t>(int8 ? (pattern % 2 == 0 ? 255 : 1) : (pattern % 2 == 0 ? 15 : 0));
      std::vector<uint8_t> levels(static_cast<size_t>(shape.n * shape.k), level);
      std::vector<float> scales(static_cast<size_t>(shape.n * groups), 0.5f);
      PackedCase c;
      c.shape = shape;
      c.rows = 20;
      c.activation_group = shape.group == 0 || shape.group == 512 ? 512 : 256;
      c.blob = AlignedBytes(LayoutOf(shape).bytes);
      CHECK(PackLevels({levels.data(), scales.data(), nullptr}, shape, 0, LayoutOf(shape).panels,
                       c.blob.data()));
      c.x.assign(static_cast<size_t>(c.rows * shape.k), pattern < 2 ? 127.0f : -127.0f);
      Random random(Seed());
      CheckCase(c, &random);
    }
  }
}

LORAMUX_TEST(PackedTablesGiveNanForRowsThatAreNotFinite) {
  Random random(Seed());
  for (const PackedShape& shape : AllPackedKinds(35, 300)) {
    PackedCase c = MakePackedCase(shape, 20, kActivationGroup, &random);
    PackedCase clean = c;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int64_t i = 0; i < 3; ++i) {
      c.x[static_cast<size_t>((i * 7 + 1) * shape.k + 299 - i)] = bad[i];
    }
    for (Isa isa : SupportedIsas()) {
      const std::vector<float> got = c.RunTable(isa, 0);
      const std::vector<float> want = clean.RunTable(isa, 0);
      for (size_t i = 0; i < got.size(); ++i) {
        const int64_t row = static_cast<int64_t>(i) / shape.n;
        const bool poisoned = row == 1 || row == 8 || row == 15;
        if (poisoned) {
          CHECK_THAT(!std::isfinite(got[i]), Where(c, isa));
        } else {
          CHECK_THAT(got[i] == want[i], Where(c, isa));
        }
      }
    }
  }
}

// The checks above would notice one level that is off by one.
LORAMUX_TEST(PackedChecksNoticeOneWrongLevel) {
  Random random(Seed());
  for (const PackedShape& shape : AllPackedKinds(16, 256)) {
    if (shape.format == PackedFormat::kBf16) continue;
    PackedCase c = MakePackedCase(shape, 4, kActivationGroup, &random);
    PackedCase wrong = c;
    const uint8_t level = wrong.blob.data()[40] & 0x0f;
    wrong.blob.data()[40] = static_cast<uint8_t>(
        (wrong.blob.data()[40] & 0xf0) | (level == 15 ? level - 1 : level + 1));
    for (Isa isa : SupportedIsas()) {
      CHECK_THAT(FirstDifference(c.RunTable(isa, 0), wrong.RunTable(isa, 0)) != 0,
                 Where(c, isa));
    }
  }
}

}  // namespace
}  // namespace loramux::test
