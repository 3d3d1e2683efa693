// Units of work handed out one at a time to as many workers as are worth waking. Which worker runs
// a unit never changes its result.
#pragma once

#include "cpu/simd.h"
#include "loramux/types.h"

namespace loramux::LORAMUX_SIMD_NS {

// Calls worker(index, next) for index in [0, workers); next() answers unit numbers, ascending for
// one worker, each once over all workers, and -1 at the end. Workers may run one after another.
template <typename Worker>
void RunUnits(const Parallel& parallel, int64_t units, int64_t workers, Worker&& worker) {
  if (units <= 0) return;
  int64_t counter = 0;
  const auto next = [&counter, units]() -> int64_t {
    const int64_t i = __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED);
    return i < units ? i : -1;
  };
  parallel.For(static_cast<size_t>(MaxOf<int64_t>(1, MinOf(workers, units))),
               [&](size_t index) { worker(static_cast<int64_t>(index), next); });
}

// Workers for a job of `cost` multiply-adds: each should have enough to pay for its wake-up.
LORAMUX_INLINE int64_t WorkersFor(const Parallel& parallel, int64_t cost) {
  constexpr int64_t kCostPerWorker = 64 * 1024;
  return MaxOf<int64_t>(1, MinOf<int64_t>(parallel.threads, cost / kCostPerWorker + 1));
}

}  // namespace loramux::LORAMUX_SIMD_NS
