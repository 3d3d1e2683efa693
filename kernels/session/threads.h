// The session's own threads besides the step thread and its helpers (session/step_pool.h): a few
// that read adapters.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

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

// In a catch block around the start of a thread: what the system says becomes
// NativeError(kOutOfMemory), the rest stays what it is.
[[noreturn]] void FailThread();

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

}  // namespace loramux
