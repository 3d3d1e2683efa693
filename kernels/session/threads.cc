#include "session/threads.h"

#include <pthread.h>
#include <unistd.h>

#include <system_error>

#include "session/error.h"

namespace loramux {
namespace {

// In a catch block: what the system says becomes an error of ours, the rest stays what it is.
[[noreturn]] void FailThread() {
  try {
    throw;
  } catch (const std::system_error& error) {
    throw NativeError(ErrorCode::kOutOfMemory,
                      std::string("cannot start a thread: ") + error.what());
  }
}

}  // namespace

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

HelperPool::HelperPool(int32_t threads) {
  try {
    for (int32_t worker = 1; worker < threads; ++worker) {
      helpers_.emplace_back([this, worker] {
        BeginThread("loramux-helper", 0);
        Loop(worker);
      });
    }
  } catch (...) {
    Join();
    FailThread();
  }
}

HelperPool::~HelperPool() { Join(); }

void HelperPool::Join() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  wake_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void HelperPool::Run(size_t n, const std::function<void(int32_t, size_t)>& fn) {
  if (n == 0) return;
  if (n == 1 || helpers_.empty()) {
    for (size_t i = 0; i < n; ++i) fn(0, i);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    fn_ = &fn;
    count_ = n;
    next_.store(0, std::memory_order_relaxed);
    busy_ = static_cast<int32_t>(helpers_.size());
    ++generation_;
  }
  wake_.notify_all();
  Work(0);
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return busy_ == 0; });
}

void HelperPool::Work(int32_t worker) {
  for (;;) {
    const size_t i = next_.fetch_add(1, std::memory_order_relaxed);
    if (i >= count_) return;
    (*fn_)(worker, i);
  }
}

void HelperPool::Loop(int32_t worker) {
  uint64_t seen = 0;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return ended_ || generation_ != seen; });
      if (ended_) return;
      seen = generation_;
    }
    Work(worker);
    const std::lock_guard lock(mutex_);
    if (--busy_ == 0) done_.notify_one();
  }
}

}  // namespace loramux
