#include "session/threads.h"

#include <pthread.h>
#include <unistd.h>

#include <system_error>

#include "session/error.h"

namespace loramux {

void FailThread() {
  try {
    throw;
  } catch (const std::system_error& error) {
    throw NativeError(ErrorCode::kOutOfMemory,
                      std::string("cannot start a thread: ") + error.what());
  }
}

void BeginThread(const char* name, int32_t niceness) {
  pthread_setname_np(pthread_self(), name);
  // On Linux this changes the calling thread alone. Were it refused, nothing would be lost but
  // latency, so the result does not matter.
  if (niceness > 0) (void)!nice(niceness);
}

TaskThreads::TaskThreads(int32_t threads, const char* name) {
  try {
    for (int32_t i = 0; i < threads; ++i) {
      threads_.emplace_back([this, name] {
        BeginThread(name, kLoadNiceness);
        Loop();
      });
    }
  } catch (...) {
    // Whatever it is: a running thread must not be destroyed.
    StopAndJoin();
    FailThread();
  }
}

bool TaskThreads::Submit(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return false;
    queue_.push_back(std::move(task));
  }
  wake_.notify_one();
  return true;
}

void TaskThreads::StopAndJoin() {
  RequestStop();
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void TaskThreads::Loop() {
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return ended_ || !queue_.empty(); });
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    task();
  }
}

}  // namespace loramux
