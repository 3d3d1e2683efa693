// The threads that share the work inside one step.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

#include "loramux/types.h"

namespace loramux {

// A parallel-for over the caller and helpers that stay awake between the regions of a step: a step
// is a hundred short regions, and to wake a sleeping thread costs more than many of them take.
//
//   * From Begin to End a helper that finds nothing to do spins, at most kHelperSpin, before it
//     sleeps. Outside of that it sleeps at once; a region there wakes it first.
//   * A region hands out its indices one at a time, and the caller takes part. It waits for indices
//     that were taken, never for a helper that has not come: where the system gave a helper's core
//     to somebody else, the caller does the helper's share.
//
// Begin, End and regions are called by one thread at a time; the pool may be destroyed when none of
// them is under way.
class StepPool {
 public:
  // What a helper waits for the next region before it sleeps: longer than anything that runs
  // between two regions of a step, and short enough that nobody misses the core when a step stalls.
  static constexpr std::chrono::microseconds kHelperSpin{100};
  // What the caller spins for the last helper's index before it sleeps. A helper that takes longer
  // has a large index, or lost its core; a caller that sleeps then leaves it its own.
  static constexpr std::chrono::microseconds kCallerSpin{100};

  // `threads` >= 1 counts the caller. The helpers run at the niceness of the thread that makes the
  // pool. Throws NativeError(kOutOfMemory) where a thread cannot be started.
  explicit StepPool(int32_t threads);
  ~StepPool();
  StepPool(const StepPool&) = delete;
  StepPool& operator=(const StepPool&) = delete;

  int32_t threads() const { return static_cast<int32_t>(helpers_.size()) + 1; }

  // The helpers wake and stay awake until End.
  void Begin();
  void End();

  // The pool for kernels; valid as long as the pool.
  Parallel parallel();

  // Calls f(worker, i) once for each i in [0, n); worker in [0, threads()) is never used by two
  // calls at once. f must not throw and must not start a region. Allocates nothing.
  template <typename F>
  void For(size_t n, F&& f) {
    using Fn = std::remove_reference_t<F>;
    Run(
        n, [](void* arg, int32_t worker, size_t i) { (*static_cast<Fn*>(arg))(worker, i); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  using Body = void (*)(void* arg, int32_t worker, size_t i);

  void Run(size_t n, Body body, void* arg);
  void RunRegion(uint32_t n);
  void AwaitHelpers(uint32_t indices);
  uint32_t Work(int32_t worker);
  void Loop(int32_t worker);
  uint32_t AwaitRegion(uint32_t seen);
  void Announce();
  void Join();

  std::vector<std::thread> helpers_;

  // The region. Written before next_ opens it, read by those who took an index of it.
  Body body_ = nullptr;
  void* arg_ = nullptr;
  size_t first_ = 0;

  static constexpr size_t kLine = 64;
  // Count of indices in the high half, next index in the low one, so that a helper that comes late
  // takes an index of the region that runs or none.
  alignas(kLine) std::atomic<uint64_t> next_{0};
  // Indices that helpers have finished.
  alignas(kLine) std::atomic<uint32_t> done_{0};
  std::atomic<bool> caller_sleeps_{false};
  // Changes with each region, with Begin and at the end.
  alignas(kLine) std::atomic<uint32_t> epoch_{0};
  std::atomic<int32_t> sleepers_{0};
  std::atomic<bool> awake_{false};
  std::atomic<bool> ended_{false};
};

// Keeps a pool's helpers awake while it lives.
class PoolAwake {
 public:
  explicit PoolAwake(StepPool* pool) : pool_(pool) { pool_->Begin(); }
  ~PoolAwake() { pool_->End(); }
  PoolAwake(const PoolAwake&) = delete;
  PoolAwake& operator=(const PoolAwake&) = delete;

 private:
  StepPool* pool_;
};

}  // namespace loramux
