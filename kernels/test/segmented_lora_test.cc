// Tolerance against double, where the delta is of order one, absolute: 2e-5 for float32 adapters,
// 2e-4 for bfloat16 ones and 1e-3 for int8 ones, whose inputs may keep 16 bits only
// (segmented_lora.h). The reference has the rounded weights.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "loramux/cpu_features.h"
#include "test/adapter_mix.h"
#include "test/check.h"

namespace loramux::test {
namespace {

constexpr double kTolerance = 2e-5;
constexpr double kToleranceBf16 = 2e-4;
constexpr double kToleranceI8 = 1e-3;
double Tolerance(LoraDtype dtype) {
  return dtype == LoraDtype::kI8     ? kToleranceI8
         : dtype == LoraDtype::kBf16 ? kToleranceBf16
                                     : kTolerance;
}
const std::vector<int32_t> kRanks = {1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 5, 17, 0, 33};

std::string Describe(const LoraCase& c, Isa isa, const char* mix) {
  return Format("isa %s %s mix %s rows %lld in %lld out %lld rank0 %d", IsaName(isa),
                LoraDtypeName(c.dtype), mix, static_cast<long long>(c.rows),
                static_cast<long long>(c.in), static_cast<long long>(c.out),
                c.rank.empty() ? -1 : c.rank[0]);
}

void CheckAgainstReference(const LoraCase& c, const char* mix) {
  ThreadPool pool(2);
  const std::vector<float> expected = c.RunReference();
  for (Isa isa : SupportedIsas()) {
    const std::vector<float> got = c.Run(Parallel{}, isa);
    const double error = MaxAbsError(got, expected);
    CHECK_THAT(error <= Tolerance(c.dtype), Describe(c, isa, mix) + Format(" error %g", error));
    CHECK_THAT(FirstDifference(got, c.Run(pool.Get(), isa)) == 0,
               Describe(c, isa, mix) + " differs on two threads");
  }
}

LORAMUX_TEST(LoraMatchesReferenceOverMixes) {
  Random random(Seed());
  for (int32_t rows : {1, 4, 16, 32}) {
    for (Mix mix : kAllMixes) {
      std::vector<int32_t> ranks = kRanks;
      std::rotate(ranks.begin(), ranks.begin() + random.Int(0, 13), ranks.end());
      for (LoraDtype dtype : kAllLoraDtypes) {
        CheckAgainstReference(
            MakeLoraCase(MakeMix(mix, rows, &random), ranks, 513, 257, dtype, &random),
            MixName(mix));
      }
    }
  }
}

LORAMUX_TEST(LoraMatchesReferenceForEveryRank) {
  Random random(Seed());
  for (int32_t rank : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 129, 256}) {
    for (LoraDtype dtype : kAllLoraDtypes) {
      CheckAgainstReference(
          MakeLoraCase({{0, 1}, {-1, 2}, {1, 5}}, {rank}, 160, 144, dtype, &random), "rank");
    }
  }
}

LORAMUX_TEST(LoraMatchesReferenceForOddSizes) {
  Random random(Seed());
  const int64_t sizes[][2] = {{1, 1},   {2049, 2049}, {1023, 7}, {1025, 129},
                              {3, 127}, {2048, 1},    {17, 1025}};
  for (const auto& size : sizes) {
    for (LoraDtype dtype : kAllLoraDtypes) {
      CheckAgainstReference(MakeLoraCase({{0, 3}, {1, 37}, {-1, 1}, {2, 1}}, {16, 3, 65}, size[0],
                                         size[1], dtype, &random),
                            "odd");
    }
  }
}

bool SameBits(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, static_cast<size_t>(count) * sizeof(float)) == 0;
}

LORAMUX_TEST(LoraLeavesRowsWithoutAdapterUntouched) {
  Random random(Seed());
  for (LoraDtype dtype : kAllLoraDtypes) {
    // Adapter 1 has rank 0; -1 is in no segment. Signed zeros and NaN must survive as well.
    LoraCase c = MakeLoraCase({{-1, 2}, {0, 3}, {1, 4}, {-1, 1}, {0, 2}, {-1, 3}}, {16, 0}, 96, 80,
                              dtype, &random);
    for (int64_t row : {0, 1, 5, 6, 7, 8, 9, 12, 13, 14}) {
      float* y = c.y.data() + row * c.y_stride;
      y[0] = -0.0f;
      y[1] = NAN;
      y[2] = -INFINITY;
    }
    for (Isa isa : SupportedIsas()) {
      const std::vector<float> got = c.Run(Parallel{}, isa);
      for (int64_t row : {0, 1, 5, 6, 7, 8, 9, 12, 13, 14}) {
        const int64_t at = row * c.y_stride;
        CHECK_THAT(SameBits(got.data() + at, c.y.data() + at, c.y_stride),
                   Format("%s row %d", IsaName(isa), static_cast<int>(row)));
      }
      CHECK(FirstDifference(got, c.y) != 0);
    }
  }
}

LORAMUX_TEST(LoraLeavesColumnsOfOthersUntouched) {
  Random random(Seed());
  for (LoraDtype dtype : kAllLoraDtypes) {
    for (int64_t out : {1, 15, 16, 17, 90, 1041}) {
      LoraCase c = MakeLoraCase({{0, 1}, {1, 20}}, {16, 33}, 64, out, dtype, &random);
      c.y_stride = out + 24;
      c.y = random.Normals(static_cast<size_t>(c.rows * c.y_stride), 1.0f);
      for (Isa isa : SupportedIsas()) {
        const std::vector<float> got = c.Run(Parallel{}, isa);
        for (int64_t row = 0; row < c.rows; ++row) {
          const int64_t at = row * c.y_stride + out;
          CHECK_THAT(SameBits(got.data() + at, c.y.data() + at, c.y_stride - out),
                     Format("%s out %d row %d", IsaName(isa), static_cast<int>(out),
                            static_cast<int>(row)));
        }
      }
    }
  }
}

// The row without the others, under the `count` segments from `first` on.
LoraCase RowAlone(const LoraCase& c, size_t first, size_t count, int32_t row) {
  LoraCase alone;
  alone.rows = 1;
  alone.dtype = c.dtype;
  alone.in = alone.x_stride = c.in;
  alone.out = alone.y_stride = c.out;
  const auto x = c.x.begin() + row * c.x_stride;
  const auto y = c.y.begin() + row * c.y_stride;
  alone.x.assign(x, x + c.in);
  alone.y.assign(y, y + c.out);
  alone.segments.assign(c.segments.begin() + first, c.segments.begin() + first + count);
  for (LoraSegment& s : alone.segments) s.begin = 0, s.end = 1;
  return alone;
}

// Segments from `first` on that have its rows.
size_t ChainLength(const LoraCase& c, size_t first) {
  size_t next = first + 1;
  while (next < c.segments.size() && c.segments[next].begin == c.segments[first].begin) ++next;
  return next - first;
}

LORAMUX_TEST(LoraRowDoesNotDependOnItsBatch) {
  Random random(Seed());
  ThreadPool pool(3);
  for (LoraDtype dtype : kAllLoraDtypes) {
    const LoraCase c = MakeLoraCase(
        {{0, 71}, {-1, 3}, {1, 1}, {2, 6}, {3, 33}, {0, 41, 3}, {2, 2, 2}, {1, 1, 3}},
        {16, 256, 3, 67}, 2049, 515, dtype, &random);
    for (Isa isa : SupportedIsas()) {
      const std::vector<float> batch = c.Run(Parallel{}, isa);
      CHECK_THAT(FirstDifference(batch, c.Run(pool.Get(), isa)) == 0, IsaName(isa));
      size_t count = 1;
      for (size_t first = 0; first < c.segments.size(); first += count) {
        count = ChainLength(c, first);
        const LoraSegment& s = c.segments[first];
        for (int32_t row = s.begin; row < s.end; ++row) {
          const std::vector<float> got = RowAlone(c, first, count, row).Run(Parallel{}, isa);
          const auto in_batch = batch.begin() + row * c.y_stride;
          CHECK_THAT(FirstDifference(got, {in_batch, in_batch + c.out}) == 0,
                     Format("%s %s row %d rank %d of %d", IsaName(isa), LoraDtypeName(dtype), row,
                            s.rank, static_cast<int>(count)));
        }
      }
    }
  }
}

// A row under several adapters is what it becomes when they are added one call after another.
LORAMUX_TEST(LoraSumIsOneAdapterAfterAnother) {
  Random random(Seed());
  for (LoraDtype dtype : kAllLoraDtypes) {
    const LoraCase c =
        MakeLoraCase({{0, 5, 4}, {-1, 2}, {1, 70, 2}}, {8, 0, 33, 64}, 1100, 300, dtype, &random);
    for (Isa isa : SupportedIsas()) {
      LoraCase one = c;
      for (const LoraSegment& s : c.segments) {
        one.segments = {s};
        one.y = one.Run(Parallel{}, isa);
      }
      CHECK_THAT(FirstDifference(one.y, c.Run(Parallel{}, isa)) == 0, IsaName(isa));
    }
  }
}

// Runs all units of both phases in an order drawn at random.
std::vector<float> RunUnitsShuffled(const LoraCase& c, Isa isa, Random* random) {
  std::vector<float> y = c.y;
  AlignedBytes workspace;
  const SegmentedLoraPlan plan = PlanSegmentedLora(c.Args(&y, &workspace), isa);
  for (bool expand : {false, true}) {
    std::vector<int64_t> units;
    for (int64_t i = 0; i < (expand ? plan.expand_units : plan.shrink_units); ++i) {
      units.insert(units.begin() + random->Int(0, static_cast<int32_t>(i)), i);
    }
    for (int64_t unit : units) {
      expand ? SegmentedLoraExpandUnit(plan, unit) : SegmentedLoraShrinkUnit(plan, unit);
    }
  }
  return y;
}

LORAMUX_TEST(LoraUnitsGiveTheSameBitsInAnyOrder) {
  Random random(Seed());
  for (LoraDtype dtype : kAllLoraDtypes) {
    for (Mix mix : kAllMixes) {
      const LoraCase c =
          MakeLoraCase(MakeMix(mix, 70, &random), {16, 8, 0, 64, 33}, 2080, 1300, dtype, &random);
      for (Isa isa : SupportedIsas()) {
        CHECK_THAT(FirstDifference(RunUnitsShuffled(c, isa, &random), c.Run(Parallel{}, isa)) == 0,
                   Describe(c, isa, MixName(mix)));
      }
    }
  }
}

void CheckLargeAndTiny(const LoraCase& c, Isa isa) {
  for (float scale : {0x1p-60f, 0x1p60f}) {
    LoraCase scaled = c;
    for (float& value : scaled.x) value *= scale;
    for (float& value : scaled.y) value *= scale;
    const std::vector<float> got = scaled.Run(Parallel{}, isa);
    const double error = MaxAbsError(got, scaled.RunReference()) / static_cast<double>(scale);
    CHECK_THAT(error <= Tolerance(c.dtype),
               Describe(c, isa, "scaled") + Format(" error %g", error));
  }
  // The largest finite numbers do not overflow where they are split, nor large ones times levels.
  const float number = c.dtype == LoraDtype::kI8 ? 0x1p120f : 3.4028235e38f;
  LoraCase largest = c;
  std::fill(largest.x.begin(), largest.x.end(), 0.0f);
  for (int64_t row = 0; row < c.rows; ++row) {
    largest.x[static_cast<size_t>(row * c.x_stride)] = number;
  }
  for (LoraSegment& s : largest.segments) s.scale = 1e-6f;
  for (float value : largest.Run(Parallel{}, isa)) CHECK_THAT(std::isfinite(value), IsaName(isa));
}

LORAMUX_TEST(LoraTakesLargeAndTinyNumbers) {
  Random random(Seed());
  for (const LoraDtype dtype : {LoraDtype::kBf16, LoraDtype::kI8}) {
    LoraCase c = MakeLoraCase({{0, 17}, {1, 1}}, {16, 40}, 96, 80, dtype, &random);
    for (Isa isa : SupportedIsas()) CheckLargeAndTiny(c, isa);
  }
}

// A number that is not finite spoils its own row, all of it, and no other.
LORAMUX_TEST(LoraPassesOnWhatIsNotFinite) {
  Random random(Seed());
  for (LoraDtype dtype : kAllLoraDtypes) {
    const LoraCase c = MakeLoraCase({{0, 3}, {1, 20}}, {16, 5}, 1100, 80, dtype, &random);
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      LoraCase spoilt = c;
      for (int64_t row : {1, 9}) spoilt.x[static_cast<size_t>(row * c.x_stride + 1050)] = bad;
      for (Isa isa : SupportedIsas()) {
        const std::vector<float> good = c.Run(Parallel{}, isa);
        const std::vector<float> got = spoilt.Run(Parallel{}, isa);
        for (int64_t row = 0; row < c.rows; ++row) {
          const float* y = got.data() + row * c.y_stride;
          if (row != 1 && row != 9) {
            CHECK_THAT(SameBits(y, good.data() + row * c.y_stride, c.out), IsaName(isa));
            continue;
          }
          for (int64_t o = 0; o < c.out; ++o) {
            CHECK_THAT(!std::isfinite(y[o]), Describe(c, isa, "not finite"));
          }
        }
      }
    }
  }
}

// The double loop reads packed weights where they are said to lie.
LORAMUX_TEST(LoraReferenceReadsPackedWeights) {
  Random random(Seed());
  for (const LoraDtype dtype : {LoraDtype::kBf16, LoraDtype::kI8}) {
    const LoraCase c =
        MakeLoraCase({{0, 2}, {1, 1}, {2, 3}}, {33, 1, 16}, 1075, 1053, dtype, &random);
    std::vector<float> y = c.y;
    AlignedBytes workspace;
    reference::SegmentedLora(c.Args(&y, &workspace));
    // The product of a level and its scale is rounded in float32.
    const double tolerance = dtype == LoraDtype::kI8 ? 1e-5 : 0.0;
    CHECK(MaxAbsError(y, c.RunReference()) <= tolerance);
  }
}

// The checks above would notice segment bounds that are off by one row.
LORAMUX_TEST(LoraChecksNoticeShiftedBounds) {
  Random random(Seed());
  const LoraCase c =
      MakeLoraCase({{0, 4}, {1, 4}, {-1, 2}}, {8, 16}, 64, 64, LoraDtype::kBf16, &random);
  const std::vector<float> expected = c.RunReference();
  for (Isa isa : SupportedIsas()) {
    for (int edge = 0; edge < 3; ++edge) {
      LoraCase shifted = c;
      if (edge == 0) ++shifted.segments[0].begin;
      if (edge == 1) --shifted.segments[0].end, --shifted.segments[1].begin;
      if (edge == 2) ++shifted.segments[1].end;
      CHECK(MaxAbsError(shifted.Run(Parallel{}, isa), expected) > 100 * kToleranceBf16);
    }
  }
}

}  // namespace
}  // namespace loramux::test
