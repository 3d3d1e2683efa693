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

// 0 when equal bit for bit, else 1 + index of the first difference.
size_t FirstDifference(const std::vector<float>& a, const std::vector<float>& b);
double MaxAbsError(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace loramux::test
