// The loops that reach a processor's peaks, and reading memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace loramux::bench {

struct Loop {
  const char* name;
  double ops;  // additions and multiplications in one turn
  void (*run)(int64_t turns);
};

// Those this processor runs.
std::vector<Loop> SupportedLoops();

// Ways to read: how far ahead of the loads lines are fetched.
inline constexpr int kReadWays = 4;
// Loads every cache line of [p, p + bytes); bytes is a multiple of 4 KiB, p of 64.
void ReadBytes(const uint8_t* p, size_t bytes, int way);

}  // namespace loramux::bench
