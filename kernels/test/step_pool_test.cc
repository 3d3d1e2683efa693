// The pool that shares a step's work: every index once, also when helpers sleep, come late or take
// long, and an end whenever it comes.
#include "session/step_pool.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <vector>

#include "test/check.h"

namespace loramux::test {
namespace {

// Runs one region of n indices; each must be answered once, by a worker that does nothing else.
void CheckRegion(StepPool* pool, size_t n) {
  std::vector<std::atomic<int32_t>> calls(n);
  std::vector<std::atomic<int32_t>> busy(static_cast<size_t>(pool->threads()));
  std::atomic<int32_t> bad{0};
  pool->For(n, [&](int32_t worker, size_t i) {
    auto& mine = busy[static_cast<size_t>(worker)];
    if (mine.fetch_add(1) != 0) bad.fetch_add(1);
    calls[i].fetch_add(1);
    mine.fetch_sub(1);
  });
  size_t once = 0;
  for (const auto& count : calls) once += count.load() == 1 ? 1u : 0u;
  CHECK_THAT(once == n, Format("%zu of %zu indices ran once, %d threads", once, n,
                               pool->threads()));
  CHECK(bad.load() == 0);
}

// Every thread of the pool must take an index, because each index ends only when all have begun.
void CheckAllTakePart(StepPool* pool) {
  std::atomic<int32_t> begun{0};
  pool->For(static_cast<size_t>(pool->threads()), [&](int32_t, size_t) {
    begun.fetch_add(1);
    while (begun.load() < pool->threads()) {
    }
  });
  CHECK(begun.load() == pool->threads());
}

}  // namespace

LORAMUX_TEST(StepPoolRunsEachIndexOnce) {
  for (const int32_t threads : {1, 2, 3, 8}) {
    StepPool pool(threads);
    CHECK(pool.threads() == threads);
    for (const size_t n : {0, 1, 2, 3, 7, 64, 1000}) {
      CheckRegion(&pool, n);  // the helpers sleep
      const PoolAwake awake(&pool);
      for (int32_t i = 0; i < 20; ++i) CheckRegion(&pool, n);
    }
  }
}

LORAMUX_TEST(StepPoolThreadsAllTakePart) {
  for (const int32_t threads : {1, 2, 4}) {
    StepPool pool(threads);
    CheckAllTakePart(&pool);
    for (int32_t step = 0; step < 20; ++step) {
      const PoolAwake awake(&pool);
      CheckAllTakePart(&pool);
      CheckAllTakePart(&pool);
    }
    CheckAllTakePart(&pool);
  }
}

LORAMUX_TEST(StepPoolRegionsFollowEachOtherWithoutMixing) {
  Random random(Seed());
  StepPool pool(3);
  std::vector<int64_t> values(64);
  int64_t expected = 0;
  const PoolAwake awake(&pool);
  for (int32_t region = 0; region < 20000; ++region) {
    // A region reads what the one before wrote, plainly: what is not ordered shows.
    const auto n = static_cast<size_t>(random.Int(1, 64));
    int64_t sum = 0;
    for (size_t i = 0; i < n; ++i) sum += values[i];
    expected += static_cast<int64_t>(n);
    pool.For(n, [&](int32_t, size_t i) { values[i] += 1; });
    int64_t after = 0;
    for (size_t i = 0; i < n; ++i) after += values[i];
    if (!CHECK_THAT(after == sum + static_cast<int64_t>(n), Format("region %d", region))) return;
  }
  int64_t total = 0;
  for (const int64_t value : values) total += value;
  CHECK(total == expected);
}

LORAMUX_TEST(StepPoolCallerSleepsForALongIndex) {
  using Clock = std::chrono::steady_clock;
  StepPool pool(2);
  for (int32_t i = 0; i < 5; ++i) {
    std::atomic<int32_t> begun{0};
    std::atomic<bool> finished{false};
    pool.For(2, [&](int32_t worker, size_t) {
      begun.fetch_add(1);
      while (begun.load() < 2) {
      }
      if (worker == 0) return;
      const auto end = Clock::now() + 20 * StepPool::kCallerSpin;
      while (Clock::now() < end) {
      }
      finished.store(true);
    });
    CHECK(finished.load());
  }
}

LORAMUX_TEST(StepPoolServesKernels) {
  for (const int32_t threads : {1, 2}) {
    StepPool pool(threads);
    const Parallel parallel = pool.parallel();
    CHECK(parallel.threads == threads);
    std::vector<int32_t> values(100);
    parallel.For(values.size(), [&](size_t i) { values[i] += static_cast<int32_t>(i); });
    bool same = true;
    for (size_t i = 0; i < values.size(); ++i) same = same && values[i] == static_cast<int32_t>(i);
    CHECK(same);
  }
}

LORAMUX_TEST(StepPoolEndsWhereverItIs) {
  for (int32_t i = 0; i < 200; ++i) {
    auto pool = std::make_unique<StepPool>(3);
    if (i % 2 == 1) pool->Begin();
    if (i % 3 == 1) CheckRegion(pool.get(), 5);
    if (i % 5 == 1) pool->End();
    pool.reset();
  }
  CHECK(true);
}

}  // namespace loramux::test
