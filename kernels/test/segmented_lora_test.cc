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
      const bool transposed = random.Int(0, 1) == 1;
      CheckAgainstReference(
          MakeLoraCase(MakeMix(mix, rows, &random), ranks, 513, 257, transposed, &random),
          MixName(mix));
    }
  }
}

LORAMUX_TEST(LoraMatchesReferenceForEveryRank) {
  Random random(Seed());
  for (int32_t rank : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 129, 256}) {
    for (bool transposed : {false, true}) {
      CheckAgainstReference(
          MakeLoraCase({{0, 1}, {-1, 2}, {1, 5}}, {rank}, 160, 144, transposed, &random), "rank");
    }
  }
}

LORAMUX_TEST(LoraMatchesReferenceForOddSizes) {
  Random random(Seed());
  const int64_t sizes[][2] = {{1, 1},   {2049, 2049}, {1023, 7}, {1025, 129},
                              {3, 127}, {2048, 1},    {17, 1025}};
  for (const auto& size : sizes) {
    for (bool transposed : {false, true}) {
      CheckAgainstReference(MakeLoraCase({{0, 3}, {1, 37}, {-1, 1}, {2, 1}}, {16, 3, 65}, size[0],
                                         size[1], transposed, &random),
                            "odd");
    }
  }
}

LORAMUX_TEST(LoraLeavesRowsWithoutAdapterUntouched) {
  Random random(Seed());
  // Adapter 1 has rank 0; -1 is in no segment. Signed zeros and NaN must survive as well.
  LoraCase c = MakeLoraCase({{-1, 2}, {0, 3}, {1, 4}, {-1, 1}, {0, 2}, {-1, 3}}, {16, 0}, 96, 80,
                            true, &random);
  for (int64_t row : {0, 1, 5, 6, 7, 8, 9, 12, 13, 14}) {
    float* y = c.y.data() + row * c.out;
    y[0] = -0.0f;
    y[1] = NAN;
    y[2] = -INFINITY;
  }
  for (Isa isa : SupportedIsas()) {
    const std::vector<float> got = c.Run(Parallel{}, isa);
    for (int64_t row : {0, 1, 5, 6, 7, 8, 9, 12, 13, 14}) {
      CHECK_THAT(std::memcmp(got.data() + row * c.out, c.y.data() + row * c.out,
                             static_cast<size_t>(c.out) * sizeof(float)) == 0,
                 Format("%s row %d", IsaName(isa), static_cast<int>(row)));
    }
    CHECK(FirstDifference(got, c.y) != 0);
  }
}

LORAMUX_TEST(LoraRowDoesNotDependOnItsBatch) {
  Random random(Seed());
  for (bool transposed : {false, true}) {
    const LoraCase c = MakeLoraCase({{0, 71}, {-1, 3}, {1, 1}, {2, 6}, {3, 33}}, {16, 256, 3, 67},
                                    2049, 515, transposed, &random);
    for (Isa isa : SupportedIsas()) {
      const std::vector<float> batch = c.Run(Parallel{}, isa);
      for (const LoraSegment& s : c.segments) {
        for (int32_t row = s.begin; row < s.end; ++row) {
          LoraCase alone;
          alone.rows = 1;
          alone.in = c.in;
          alone.out = c.out;
          alone.x.assign(c.x.begin() + row * c.in, c.x.begin() + (row + 1) * c.in);
          alone.y.assign(c.y.begin() + row * c.out, c.y.begin() + (row + 1) * c.out);
          alone.segments = {s};
          alone.segments[0].begin = 0;
          alone.segments[0].end = 1;
          const std::vector<float> got = alone.Run(Parallel{}, isa);
          const std::vector<float> expected(batch.begin() + row * c.out,
                                            batch.begin() + (row + 1) * c.out);
          CHECK_THAT(FirstDifference(got, expected) == 0,
                     Format("%s row %d rank %d", IsaName(isa), row, s.rank));
        }
      }
    }
  }
}

LORAMUX_TEST(LoraTransposedBGivesTheSameBits) {
  Random random(Seed());
  for (int32_t rank : {1, 7, 16, 64, 65, 200}) {
    LoraCase c = MakeLoraCase({{0, 5}, {1, 1}, {2, 40}}, {rank}, 130, 389, false, &random);
    LoraCase t = c;
    for (size_t i = 0; i < t.segments.size(); ++i) {
      t.segments[i].b = nullptr;
      t.segments[i].bt = c.bt[i].data();
    }
    for (Isa isa : SupportedIsas()) {
      CHECK_THAT(FirstDifference(c.Run(Parallel{}, isa), t.Run(Parallel{}, isa)) == 0,
                 Format("%s rank %d", IsaName(isa), rank));
    }
  }
}

// The checks above would notice segment bounds that are off by one row.
LORAMUX_TEST(LoraChecksNoticeShiftedBounds) {
  Random random(Seed());
  const LoraCase c = MakeLoraCase({{0, 4}, {1, 4}, {-1, 2}}, {8, 16}, 64, 64, true, &random);
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
