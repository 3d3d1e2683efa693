// Tolerances against the double reference, outputs of order one: float32 cache 2e-5; bf16 and int8
// caches 1e-2, because a key that lies on a rounding border may be stored one step apart; bf16
// tiles 2e-2, because they round queries and weights as well (relative 2^-9).
#include "loramux/paged_attention.h"

#include <cmath>
#include <cstring>

#include "loramux/cpu_features.h"
#include "test/check.h"
#include "test/paged_case.h"

namespace loramux::test {
namespace {

double Tolerance(const AttentionShape& s, Isa isa) {
  if (s.kv_dtype == KvDtype::kF32) return 2e-5;
  return s.kv_dtype == KvDtype::kBf16 && isa == Isa::kAmx ? 2e-2 : 1e-2;
}

constexpr KvDtype kDtypes[] = {KvDtype::kF32, KvDtype::kBf16, KvDtype::kI8};

std::string Describe(const AttentionShape& s, Isa isa) {
  return Format("%s heads %d/%d size %d rotary %d block %d window %d %s norm %d", IsaName(isa),
                s.num_heads, s.num_kv_heads, s.head_size, s.rotary_dim, s.block_size,
                s.sliding_window, KvDtypeName(s.kv_dtype), s.norm);
}

// Steps of a mixed batch: prompts first, then decode tokens and more prompt chunks together.
const std::vector<std::vector<Chunk>> kMixedSteps = {
    {{0, 0, 70}, {1, 0, 1}, {2, 0, 130}},
    {{1, 1, 2}, {0, 70, 71}, {3, 0, 17}, {2, 130, 150}},
    {{3, 17, 18}, {2, 150, 151}, {1, 2, 66}, {0, 71, 72}},
};
const std::vector<int32_t> kMixedLengths = {72, 66, 151, 18};

void CheckAgainstReference(const AttentionShape& shape, uint64_t seed) {
  ThreadPool pool(2);
  Random expected_random(seed);
  PagedCase expected(shape, kMixedLengths, &expected_random);
  std::vector<std::vector<float>> want;
  for (const auto& step : kMixedSteps) want.push_back(expected.Step(step, Parallel{}, nullptr));
  for (Isa isa : AttentionIsas()) {
    Random random(seed);
    PagedCase got(shape, kMixedLengths, &random);
    Random threaded_random(seed);
    PagedCase threaded(shape, kMixedLengths, &threaded_random);
    for (size_t i = 0; i < kMixedSteps.size(); ++i) {
      const std::vector<float> out = got.Step(kMixedSteps[i], Parallel{}, &isa);
      const double error = MaxAbsError(out, want[i]);
      CHECK_THAT(error <= Tolerance(shape, isa),
                 Describe(shape, isa) + Format(" step %zu error %g", i, error));
      const std::vector<float> two = threaded.Step(kMixedSteps[i], pool.Get(), &isa);
      CHECK_THAT(FirstDifference(out, two) == 0, Describe(shape, isa) + " two threads differ");
    }
    CHECK_THAT(got.k_cache() == threaded.k_cache(), Describe(shape, isa));
  }
}

LORAMUX_TEST(AttentionMatchesReferenceForHeadSizes) {
  for (int32_t head_size : {32, 48, 64, 80, 96, 128, 192, 256, 2, 34, 70}) {
    for (KvDtype dtype : kDtypes) {
      AttentionShape shape;
      shape.head_size = head_size;
      shape.rotary_dim = head_size;
      shape.kv_dtype = dtype;
      CheckAgainstReference(shape, Seed());
    }
  }
}

LORAMUX_TEST(AttentionMatchesReferenceForGroups) {
  const int32_t heads[][2] = {{1, 1},  {3, 3},  {4, 1},  {8, 2}, {14, 2},
                              {7, 1},  {12, 2}, {71, 1}, {6, 3}, {128, 1}};
  for (const auto& h : heads) {
    for (KvDtype dtype : kDtypes) {
      AttentionShape shape;
      shape.num_heads = h[0];
      shape.num_kv_heads = h[1];
      shape.head_size = 32;
      shape.rotary_dim = 32;
      shape.kv_dtype = dtype;
      CheckAgainstReference(shape, Seed() + 1);
    }
  }
}

LORAMUX_TEST(AttentionMatchesReferenceForWindowsNormsAndBlocks) {
  for (int32_t window : {0, 1, 5, 16, 63, 64, 65, 100, 1000}) {
    AttentionShape shape;
    shape.sliding_window = window;
    shape.norm = window % 2 == 1;
    for (KvDtype dtype : kDtypes) {
      shape.kv_dtype = dtype;
      CheckAgainstReference(shape, Seed() + 2);
    }
  }
  for (int32_t block_size : {1, 8, 16, 32, 48, 128}) {
    for (KvDtype dtype : kDtypes) {
      AttentionShape shape;
      shape.block_size = block_size;
      shape.norm = true;
      shape.kv_dtype = dtype;
      CheckAgainstReference(shape, Seed() + 3);
    }
  }
  for (int32_t rotary_dim : {0, 2, 16, 48}) {  // the rest of the head is not rotated
    AttentionShape shape;
    shape.rotary_dim = rotary_dim;
    CheckAgainstReference(shape, Seed() + 4);
  }
}

// A row's bits are the same whole, in chunks, token by token, and inside a batch.
LORAMUX_TEST(AttentionRowDoesNotDependOnChunksOrBatch) {
  for (int variant = 0; variant < 12; ++variant) {
    AttentionShape shape;
    shape.num_heads = variant % 2 == 0 ? 6 : 4;
    shape.num_kv_heads = 2;
    shape.head_size = variant == 3 ? 80 : 64;
    shape.rotary_dim = shape.head_size;
    shape.kv_dtype = kDtypes[variant % 3];
    shape.sliding_window = variant >= 6 ? 37 + variant : 0;
    shape.norm = variant == 1;
    for (Isa isa : AttentionIsas()) {
      Random random(Seed() + 5);
      PagedCase c(shape, {201, 90, 33}, &random);
      std::vector<std::vector<float>> whole;
      for (int32_t s = 0; s < 3; ++s) {
        c.ClearCache();
        whole.push_back(c.RunInChunks(s, {}, isa));
      }
      std::vector<int32_t> every;
      for (int32_t p = 1; p < 201; ++p) every.push_back(p);
      const std::vector<std::vector<int32_t>> cuts = {
          {1}, {64, 128}, {63, 65, 127, 200}, {16, 17, 90}, every};
      for (const auto& cut : cuts) {
        c.ClearCache();
        CHECK_THAT(FirstDifference(c.RunInChunks(0, cut, isa), whole[0]) == 0,
                   Describe(shape, isa) + Format(" %zu cuts", cut.size()));
      }
      c.ClearCache();
      ThreadPool pool(2);
      const std::vector<float> batch =
          c.Step({{2, 0, 33}, {0, 0, 201}, {1, 0, 90}}, pool.Get(), &isa);
      std::vector<float> joined = whole[2];
      joined.insert(joined.end(), whole[0].begin(), whole[0].end());
      joined.insert(joined.end(), whole[1].begin(), whole[1].end());
      CHECK_THAT(FirstDifference(batch, joined) == 0, Describe(shape, isa) + " batch");
    }
  }
}

// A context of several chunks: whole, in steps, on one thread or spread over many, the same bits,
// and near the reference.
LORAMUX_TEST(AttentionSpreadsLongContextsWithoutChangingBits) {
  const int32_t length = 3 * kChunkKeys + 77;
  for (KvDtype dtype : kDtypes) {
    for (int32_t window : {0, kChunkKeys + 300}) {
      AttentionShape shape;
      shape.num_heads = 6;
      shape.num_kv_heads = window == 0 ? 3 : 1;  // threads decide how many heads a unit has
      shape.head_size = shape.rotary_dim = 32;
      shape.kv_dtype = dtype;
      shape.sliding_window = window;
      for (Isa isa : AttentionIsas()) {
        Random random(Seed() + 12);
        PagedCase c(shape, {length, 40}, &random);
        const std::vector<float> whole = c.RunInChunks(0, {}, isa);
        const size_t row = static_cast<size_t>(shape.num_heads * shape.head_size);
        const std::vector<float> last(whole.end() - static_cast<int64_t>(3 * row), whole.end());
        const std::vector<Chunk> step = {{0, length - 3, length}};
        const std::vector<float> want = c.Step(step, Parallel{}, nullptr);
        CHECK_THAT(MaxAbsError(last, want) <= Tolerance(shape, isa), Describe(shape, isa));
        for (int32_t threads : {1, 2, 3, 16}) {
          ThreadPool pool(threads);
          const std::vector<float> got = c.Step(step, pool.Get(), &isa);
          CHECK_THAT(FirstDifference(got, last) == 0,
                     Describe(shape, isa) + Format(" %d threads", threads));
          std::vector<float> beside =
              c.Step({{1, 0, 40}, {0, length - 3, length}}, pool.Get(), &isa);
          beside.erase(beside.begin(), beside.begin() + static_cast<int64_t>(40 * row));
          CHECK_THAT(FirstDifference(beside, last) == 0,
                     Describe(shape, isa) + Format(" beside another, %d threads", threads));
        }
      }
    }
  }
}

// One key far above the others in weight, value scale or both: 16 bits are enough for the rest.
LORAMUX_TEST(AttentionKeepsSmallWeightsBesideLargeValues) {
  for (const float factor : {1e-3f, 1.0f, 20.0f}) {
    for (Isa isa : AttentionIsas()) {
      AttentionShape shape;
      shape.kv_dtype = KvDtype::kI8;
      Random random(Seed() + 15);
      PagedCase c(shape, {300}, &random);
      SequenceData& s = c.sequence(0);
      const size_t kv = static_cast<size_t>(shape.num_kv_heads * shape.head_size);
      for (size_t i = 40 * kv; i < 41 * kv; ++i) s.v[i] *= factor;
      const std::vector<float> got = c.RunInChunks(0, {}, isa);
      const std::vector<float> want = c.Step({{0, 0, 300}}, Parallel{}, nullptr);
      CHECK_THAT(MaxAbsError(got, want) <= Tolerance(shape, isa) * std::fmax(1.0, factor),
                 Format("%s %g: %g", IsaName(isa), static_cast<double>(factor),
                        MaxAbsError(got, want)));
    }
  }
}

LORAMUX_TEST(AttentionAcceptsSequencesWithoutTokensAndEmptyCalls) {
  for (Isa isa : AttentionIsas()) {
    Random random(Seed() + 11);
    PagedCase c(AttentionShape(), {40, 20}, &random);
    const std::vector<float> alone = c.Step({{0, 0, 40}}, Parallel{}, &isa);
    const std::vector<float> with = c.Step({{1, 0, 0}, {0, 0, 40}, {1, 0, 0}}, Parallel{}, &isa);
    CHECK_THAT(FirstDifference(alone, with) == 0, IsaName(isa));
    CHECK(c.Step({}, Parallel{}, &isa).empty());
    CHECK(c.Step({{1, 0, 0}}, Parallel{}, &isa).empty());
  }
}

// Later tokens of the same call, and what lies behind the window, cannot reach a row: not even NaN.
LORAMUX_TEST(AttentionMaskedKeysNeverTouchARow) {
  for (int variant = 0; variant < 6; ++variant) {
    const int32_t window = variant % 2 == 0 ? 0 : 20;
    AttentionShape shape;
    shape.sliding_window = window;
    shape.kv_dtype = kDtypes[variant / 2];
    for (Isa isa : AttentionIsas()) {
      Random random(Seed() + 6);
      PagedCase c(shape, {100}, &random);
      const std::vector<float> clean = c.RunInChunks(0, {}, isa);
      const size_t row = static_cast<size_t>(shape.num_heads * shape.head_size);
      SequenceData& s = c.sequence(0);
      const size_t kv = static_cast<size_t>(shape.num_kv_heads * shape.head_size);
      for (size_t i = 50 * kv; i < 51 * kv; ++i) s.k[i] = s.v[i] = NAN;
      c.ClearCache();
      const std::vector<float> dirty = c.RunInChunks(0, {}, isa);
      for (size_t t = 0; t < 100; ++t) {
        const bool sees = t >= 50 && (window == 0 || t < 50 + static_cast<size_t>(window));
        const bool same = std::memcmp(&clean[t * row], &dirty[t * row], row * sizeof(float)) == 0;
        CHECK_THAT(same == !sees, Describe(shape, isa) + Format(" token %zu", t));
        CHECK_THAT(!sees || std::isnan(dirty[t * row]), Format("NaN hidden at token %zu", t));
      }
    }
  }
}

// Blocks wholly behind the window may be freed and reused by somebody else.
LORAMUX_TEST(AttentionDoesNotReadBlocksBehindTheWindow) {
  AttentionShape shape;
  shape.sliding_window = 20;
  for (Isa isa : AttentionIsas()) {
    Random random(Seed() + 7);
    PagedCase c(shape, {100}, &random);
    const std::vector<float> whole = c.RunInChunks(0, {}, isa);
    c.ClearCache();
    c.Step({{0, 0, 99}}, Parallel{}, &isa);
    for (size_t b = 0; b < 5; ++b) c.PoisonBlock(c.sequence(0).blocks[b]);
    const std::vector<float> last = c.Step({{0, 99, 100}}, Parallel{}, &isa);
    const std::vector<float> want(whole.end() - static_cast<int64_t>(last.size()), whole.end());
    CHECK_THAT(FirstDifference(last, want) == 0, IsaName(isa));
  }
}

// The reference notices a mask that is off by one: a neighbouring window gives other numbers.
LORAMUX_TEST(AttentionChecksNoticeAShiftedWindow) {
  AttentionShape shape;
  shape.sliding_window = 20;
  AttentionShape wrong = shape;
  wrong.sliding_window = 21;
  for (Isa isa : AttentionIsas()) {
    Random a(Seed() + 8);
    Random b(Seed() + 8);
    const std::vector<float> want =
        PagedCase(shape, {60}, &a).Step({{0, 0, 60}}, Parallel{}, nullptr);
    const std::vector<float> got = PagedCase(wrong, {60}, &b).Step({{0, 0, 60}}, Parallel{}, &isa);
    CHECK(MaxAbsError(got, want) > 100 * Tolerance(shape, isa));
  }
}

}  // namespace
}  // namespace loramux::test
