// What tests and benchmark share: seeded numbers, a thread pool, comparisons.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "loramux/types.h"

namespace loramux::test {

// printf into a string, for details of a check.
std::string Format(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Small deterministic generator (SplitMix64): the same numbers on every platform.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  // Uniform in [0, 1).
  double Uniform();
  // Uniform in [low, high].
  int32_t Int(int32_t low, int32_t high);
  // Standard normal.
  float Normal();
  std::vector<float> Normals(size_t count, float scale);
  // One of them.
  template <typename T>
  const T& Pick(const std::vector<T>& values) {
    return values[static_cast<size_t>(Int(0, static_cast<int32_t>(values.size()) - 1))];
  }

 private:
  uint64_t state_;
};

// A pool of `threads` threads behind the kernels' Parallel. Indices are handed out one by one.
class ThreadPool {
 public:
  explicit ThreadPool(int32_t threads) : threads_(threads) {}
  Parallel Get();

 private:
  static void Run(void* self, size_t n, void (*fn)(void* arg, size_t i), void* arg);
  int32_t threads_;
};

// Bytes on a 64-byte boundary.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  // All of them 0.
  explicit AlignedBytes(int64_t bytes) : lines_(static_cast<size_t>(bytes + 63) / 64) {}
  uint8_t* data() { return reinterpret_cast<uint8_t*>(lines_.data()); }
  const uint8_t* data() const { return reinterpret_cast<const uint8_t*>(lines_.data()); }
  int64_t bytes() const { return static_cast<int64_t>(lines_.size()) * 64; }
  // Every byte set, so that reading what nobody wrote gives NaN. Keeps what is large enough.
  uint8_t* Reserve(int64_t bytes);

 private:
  struct alignas(64) Line {
    uint8_t bytes[64] = {};
  };
  std::vector<Line> lines_;
};

// Calls of operator new by this process so far. Of the programs that link test/allocations.cc.
int64_t Allocations();

// 0 when equal bit for bit, else 1 + index of the first difference.
size_t FirstDifference(const std::vector<float>& a, const std::vector<float>& b);
double MaxAbsError(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace loramux::test
