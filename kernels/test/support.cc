#include "test/support.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <thread>

namespace loramux::test {

std::string Format(const char* format, ...) {
  char buffer[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(buffer, sizeof(buffer), format, args);
  va_end(args);
  return buffer;
}

uint64_t Random::Next() {
  state_ += 0x9E3779B97F4A7C15u;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

double Random::Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

int32_t Random::Int(int32_t low, int32_t high) {
  const uint64_t span = static_cast<uint64_t>(static_cast<int64_t>(high) - low + 1);
  return low + static_cast<int32_t>(Next() % span);
}

float Random::Normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - Uniform()));
  return static_cast<float>(radius * std::cos(6.283185307179586 * Uniform()));
}

std::vector<float> Random::Normals(size_t count, float scale) {
  std::vector<float> v(count);
  for (float& x : v) x = Normal() * scale;
  return v;
}

Parallel ThreadPool::Get() {
  Parallel parallel;
  parallel.self = this;
  parallel.run = &ThreadPool::Run;
  parallel.threads = threads_;
  return parallel;
}

void ThreadPool::Run(void* self, size_t n, void (*fn)(void* arg, size_t i), void* arg) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < n; i = next++) fn(arg, i);
  };
  std::vector<std::thread> threads;
  for (int32_t i = 1; i < static_cast<ThreadPool*>(self)->threads_; ++i) threads.emplace_back(work);
  work();
  for (std::thread& t : threads) t.join();
}

uint8_t* AlignedBytes::Reserve(int64_t bytes) {
  lines_.resize(std::max(lines_.size(), (static_cast<size_t>(bytes) + 63) / 64));
  if (!lines_.empty()) std::memset(data(), 0xff, lines_.size() * sizeof(Line));
  return data();
}

size_t FirstDifference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return 1;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0) return i + 1;
  }
  return 0;
}

double MaxAbsError(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double error = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(error <= worst)) worst = error;  // NaN is the worst
    if (std::isnan(error)) return error;
  }
  return worst;
}

}  // namespace loramux::test
