// The session's own threads besides the step thread: a few that read adapters, and helpers that
// share the sampling of a step's rows.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "loramux/types.h"

namespace loramux {

// Threads that compute give way to the event loop, which needs the processor for a few hundred
// microseconds at a time and delays every stream when it waits; loads give way to both. Added to
// what the thread that starts them has, so that no thread of ours ever runs ahead of a process that
// its operator made nice. Threads that the step thread starts (ONNX Runtime's, the helpers) inherit
// its value.
constexpr int32_t kComputeNiceness = 5;
constexpr int32_t kLoadNiceness = 17;

// Names the calling thread for debuggers and top (at most 15 characters) and makes it nicer by
// `niceness` >= 0.
void BeginThread(const char* name, int32_t niceness);

// Runs tasks in order of arrival on a fixed number of threads. Tasks must not throw.
class TaskThreads {
 public:
  TaskThreads(int32_t threads, const char* name);
  ~TaskThreads() { StopAndJoin(); }
  TaskThreads(const TaskThreads&) = delete;
  TaskThreads& operator=(const TaskThreads&) = delete;

  // Every submitted task is run, also those still queued when StopAndJoin is called (they find the
  // stop flag set). False after StopAndJoin: the task was not taken.
  bool Submit(std::function<void()> task);
  // Idempotent. Sets the stop flag, runs what is queued, joins.
  void StopAndJoin();
  const std::atomic<bool>& stop() const { return stop_; }
  // Asks running tasks to end early; they check stop().
  void RequestStop() { stop_.store(true, std::memory_order_relaxed); }

 private:
  void Loop();

  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool ended_ = false;
  std::vector<std::thread> threads_;
};

// A parallel-for over a fixed set of sleeping helpers and the caller.
class HelperPool {
 public:
  // `threads` counts the caller. The helpers run at the niceness of the thread that makes the pool.
  explicit HelperPool(int32_t threads);
  ~HelperPool();
  HelperPool(const HelperPool&) = delete;
  HelperPool& operator=(const HelperPool&) = delete;

  int32_t threads() const { return static_cast<int32_t>(helpers_.size()) + 1; }
  // Calls fn(worker, i) once for each i in [0, n); worker in [0, threads) is never used by two
  // calls at once. fn must not throw. Only one Run at a time.
  void Run(size_t n, const std::function<void(int32_t worker, size_t i)>& fn);

 private:
  void Join();
  void Loop(int32_t worker);
  void Work(int32_t worker);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  uint64_t generation_ = 0;
  int32_t busy_ = 0;
  bool ended_ = false;
  const std::function<void(int32_t, size_t)>* fn_ = nullptr;
  size_t count_ = 0;
  std::atomic<size_t> next_{0};
  std::vector<std::thread> helpers_;
};

}  // namespace loramux
