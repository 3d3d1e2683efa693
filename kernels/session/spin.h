// Waiting for another thread without giving the core away: for what comes within microseconds.
#pragma once

#include <chrono>
#include <cstdint>

namespace loramux {

// Tells the processor that this thread waits: it gives way to its neighbour on the core.
inline void SpinPause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

// Looks until done() or until `longest` has passed; whether done() was true.
template <typename Done>
bool SpinUntil(std::chrono::microseconds longest, Done done) {
  // Looks between two looks at the clock, which costs as much as several.
  constexpr int32_t kLooksPerClock = 32;
  using Clock = std::chrono::steady_clock;
  Clock::time_point end{};
  for (;;) {
    for (int32_t i = 0; i < kLooksPerClock; ++i) {
      if (done()) return true;
      SpinPause();
    }
    const Clock::time_point now = Clock::now();
    if (end == Clock::time_point{}) end = now + longest;
    if (now >= end) return false;
  }
}

}  // namespace loramux
