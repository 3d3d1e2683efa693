// Tolerance, float32 against double: 2e-5 absolute where the delta is of order one.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "loramux/cpu_features.h"
#include "test/adapter_mix.h"
#include "test/check.h"

namespace loramux::test {
namespace {

constexpr double kTolerance = 2e-5;
const std::vector<int32_t> kRanks = {1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 5, 17, 0, 33};

std::string Describe(const LoraCase& c, Isa isa, const char* mix) {
  return Format("isa %s mix %s rows %lld in %lld out %lld rank0 %d", IsaName(isa), mix,
                static_cast<long long>(c.rows), static_cast<long long>(c.in),
                static_cast<long long>(c.out), c.rank.empty() ? -1 : c.rank[0]);
}

void CheckAgainstReference(const LoraCase& c, const char* mix) {
  ThreadPool pool(2);
  const std::vector<float> expected = c.RunReference();
  for (Isa isa : SupportedIsas()) {
    const std::vector<float> got = c.Run(Parallel{}, isa);
    const double error = MaxAbsError(got, expected);
    CHECK_THAT(error <= kTolerance, Describe(c, isa, mix) + Format(" error %g", error));
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
      CheckAgainstReference(
          MakeLoraCase(MakeMix(mix, rows, &random), ranks, 513, 257, LoraDtype::kF32, &random),
          MixName(mix));
    }
  }
}

LORAMUX_TEST(LoraMatchesReferenceForEveryRank) {
  Random random(Seed());
  for (int32_t rank : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 129, 256}) {
    CheckAgainstReference(
        MakeLoraCase({{0, 1}, {-1, 2}, {1, 5}}, {rank}, 160, 144, LoraDtype::kF32, &random),
        "rank");
  }
}

LORAMUX_TEST(LoraMatchesReferenceForOddSizes) {
  Random random(Seed());
  const int64_t sizes[][2] = {{1, 1},   {2049, 2049}, {1023, 7}, {1025, 129},
                              {3, 127}, {2048, 1},    {17, 1025}};
  for (const auto& size : sizes) {
    CheckAgainstReference(MakeLoraCase({{0, 3}, {1, 37}, {-1, 1}, {2, 1}}, {16, 3, 65}, size[0],
                                       size[1], LoraDtype::kF32, &random),
                          "odd");
  }
}

LORAMUX_TEST(LoraLeavesRowsWithoutAdapterUntouched) {
  Random random(Seed());
  // Adapter 1 has rank 0; -1 is in no segment. Signed zeros and NaN must survive as well.
  LoraCase c = MakeLoraCase({{-1, 2}, {0, 3}, {1, 4}, {-1, 1}, {0, 2}, {-1, 3}}, {16, 0}, 96, 80,
                            LoraDtype::kF32, &random);
  for (int64_t row : {0, 1, 5, 6, 7, 8, 9, 12, 13, 14}) {
    float* y = c.y.data() + row * c.y_stride;
    y[0] = -0.0f;
    y[1] = NAN;
    y[2] = -INFINITY;
  }
  for (Isa isa : SupportedIsas()) {
    const std::vector<float> got = c.Run(Parallel{}, isa);
    for (int64_t row : {0, 1, 5, 6, 7, 8, 9, 12, 13, 14}) {
      CHECK_THAT(std::memcmp(got.data() + row * c.y_stride, c.y.data() + row * c.y_stride,
                             static_cast<size_t>(c.out) * sizeof(float)) == 0,
                 Format("%s row %d", IsaName(isa), static_cast<int>(row)));
    }
    CHECK(FirstDifference(got, c.y) != 0);
  }
}

LORAMUX_TEST(LoraRowDoesNotDependOnItsBatch) {
  Random random(Seed());
  const LoraCase c = MakeLoraCase({{0, 71}, {-1, 3}, {1, 1}, {2, 6}, {3, 33}}, {16, 256, 3, 67},
                                  2049, 515, LoraDtype::kF32, &random);
  for (Isa isa : SupportedIsas()) {
    const std::vector<float> batch = c.Run(Parallel{}, isa);
    for (const LoraSegment& s : c.segments) {
      for (int32_t row = s.begin; row < s.end; ++row) {
        LoraCase alone;
        alone.rows = 1;
        alone.in = alone.x_stride = c.in;
        alone.out = alone.y_stride = c.out;
        const auto x = c.x.begin() + row * c.x_stride;
        const auto y = c.y.begin() + row * c.y_stride;
        alone.x.assign(x, x + c.in);
        alone.y.assign(y, y + c.out);
        alone.segments = {s};
        alone.segments[0].begin = 0;
        alone.segments[0].end = 1;
        const std::vector<float> got = alone.Run(Parallel{}, isa);
        const auto in_batch = batch.begin() + row * c.y_stride;
        CHECK_THAT(FirstDifference(got, {in_batch, in_batch + c.out}) == 0,
                   Format("%s row %d rank %d", IsaName(isa), row, s.rank));
      }
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
  for (Mix mix : kAllMixes) {
    const LoraCase c = MakeLoraCase(MakeMix(mix, 70, &random), {16, 8, 0, 64, 33}, 2080, 1300,
                                    LoraDtype::kF32, &random);
    for (Isa isa : SupportedIsas()) {
      CHECK_THAT(FirstDifference(RunUnitsShuffled(c, isa, &random), c.Run(Parallel{}, isa)) == 0,
                 Describe(c, isa, MixName(mix)));
    }
  }
}

// The checks above would notice segment bounds that are off by one row.
LORAMUX_TEST(LoraChecksNoticeShiftedBounds) {
  Random random(Seed());
  const LoraCase c = MakeLoraCase({{0, 4}, {1, 4}, {-1, 2}}, {8, 16}, 64, 64, LoraDtype::kF32, &random);
  const std::vector<float> expected = c.RunReference();
  for (Isa isa : SupportedIsas()) {
    for (int edge = 0; edge < 3; ++edge) {
      LoraCase shifted = c;
      if (edge == 0) ++shifted.segments[0].begin;
      if (edge == 1) --shifted.segments[0].end, --shifted.segments[1].begin;
      if (edge == 2) ++shifted.segments[1].end;
      CHECK(MaxAbsError(shifted.Run(Parallel{}, isa), expected) > 100 * kTolerance);
    }
  }
}

}  // namespace
}  // namespace loramux::test
