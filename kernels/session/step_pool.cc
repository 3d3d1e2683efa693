#include "session/step_pool.h"

#include <algorithm>

#include "session/spin.h"
#include "session/threads.h"

namespace loramux {
namespace {

// Indices that one word of next_ can hold; more go in several regions.
constexpr size_t kMaxRegion = size_t{1} << 30;

}  // namespace

StepPool::StepPool(int32_t threads) {
  try {
    helpers_.reserve(static_cast<size_t>(std::max(threads, 1) - 1));
    for (int32_t worker = 1; worker < threads; ++worker) {
      helpers_.emplace_back([this, worker] {
        BeginThread("loramux-helper", 0);
        Loop(worker);
      });
    }
  } catch (...) {
    // Whatever it is: a running thread must not be destroyed.
    Join();
    FailThread();
  }
}

StepPool::~StepPool() { Join(); }

void StepPool::Join() {
  ended_.store(true, std::memory_order_relaxed);
  Announce();
  for (std::thread& helper : helpers_) helper.join();
}

void StepPool::Begin() {
  if (helpers_.empty()) return;
  awake_.store(true, std::memory_order_relaxed);
  Announce();
}

void StepPool::End() { awake_.store(false, std::memory_order_relaxed); }

Parallel StepPool::parallel() {
  if (helpers_.empty()) return Parallel{};
  struct Call {
    void (*fn)(void* arg, size_t i);
    void* arg;
  };
  return Parallel{this,
                  [](void* self, size_t n, void (*fn)(void* arg, size_t i), void* arg) {
                    Call call{fn, arg};
                    static_cast<StepPool*>(self)->Run(
                        n,
                        [](void* raw, int32_t, size_t i) {
                          const auto* it = static_cast<const Call*>(raw);
                          it->fn(it->arg, i);
                        },
                        &call);
                  },
                  threads()};
}

void StepPool::Run(size_t n, Body body, void* arg) {
  if (n <= 1 || helpers_.empty()) {
    for (size_t i = 0; i < n; ++i) body(arg, 0, i);
    return;
  }
  body_ = body;
  arg_ = arg;
  for (first_ = 0; first_ < n; first_ += kMaxRegion) {
    RunRegion(static_cast<uint32_t>(std::min(n - first_, kMaxRegion)));
  }
}

void StepPool::RunRegion(uint32_t n) {
  done_.store(0, std::memory_order_relaxed);
  next_.store(uint64_t{n} << 32, std::memory_order_release);
  Announce();
  AwaitHelpers(n - Work(0));
}

// Sequentially consistent, as is the helper's side: either the helper sees the new epoch before it
// sleeps, or it is seen here among the sleepers.
void StepPool::Announce() {
  epoch_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) epoch_.notify_all();
}

void StepPool::AwaitHelpers(uint32_t indices) {
  const auto all_done = [&] { return done_.load(std::memory_order_acquire) == indices; };
  if (all_done() || SpinUntil(kCallerSpin, all_done)) return;
  caller_sleeps_.store(true, std::memory_order_seq_cst);
  for (;;) {
    const uint32_t done = done_.load(std::memory_order_seq_cst);
    if (done == indices) break;
    done_.wait(done, std::memory_order_seq_cst);
  }
  caller_sleeps_.store(false, std::memory_order_relaxed);
}

uint32_t StepPool::Work(int32_t worker) {
  for (uint32_t count = 0;; ++count) {
    const uint64_t word = next_.fetch_add(1, std::memory_order_acq_rel);
    const auto index = static_cast<uint32_t>(word);
    if (index >= static_cast<uint32_t>(word >> 32)) return count;
    body_(arg_, worker, first_ + index);
  }
}

void StepPool::Loop(int32_t worker) {
  uint32_t seen = 0;
  for (;;) {
    seen = AwaitRegion(seen);
    if (ended_.load(std::memory_order_relaxed)) return;
    const uint32_t count = Work(worker);
    if (count == 0) continue;
    done_.fetch_add(count, std::memory_order_seq_cst);
    if (caller_sleeps_.load(std::memory_order_seq_cst)) done_.notify_one();
  }
}

uint32_t StepPool::AwaitRegion(uint32_t seen) {
  uint32_t now = seen;
  const auto changed = [&] { return (now = epoch_.load(std::memory_order_acquire)) != seen; };
  SpinUntil(kHelperSpin,
            [&] { return changed() || !awake_.load(std::memory_order_relaxed); });
  if (changed()) return now;
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  epoch_.wait(seen, std::memory_order_seq_cst);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
  changed();
  return now;
}

}  // namespace loramux
