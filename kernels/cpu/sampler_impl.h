// Passes over a row of logits for one instruction set. The logic of sampling is in cpu/sampler.cc.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/simd.h"

namespace loramux::LORAMUX_SIMD_NS {

inline float MaxLogit(const float* logits, int64_t count, bool* unusable) {
  const VF infinity = Set1(__builtin_inff());
  VF largest = -infinity;
  VI bad{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const VF v = Load(logits + i);
    bad |= ~(VI)(v < infinity);
    largest = Max(largest, v);
  }
  float max = ReduceMax(largest);
  bool any = false;
  for (int lane = 0; lane < kLanes; ++lane) any = any || bad[lane] != 0;
  for (; i < count; ++i) {
    any = any || !(logits[i] < __builtin_inff());
    if (logits[i] > max) max = logits[i];
  }
  *unusable = any;
  return max;
}

inline double SumExp(const float* logits, int64_t count, float max) {
  constexpr int64_t kChunk = 1024;  // float sums stay short, chunks are added up in double
  const VF m = Set1(max);
  double total = 0.0;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t end = MinOf(count, begin + kChunk);
    VF even = Zero();
    VF odd = Zero();
    int64_t i = begin;
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
      even = even + ExpNonPositive(Load(logits + i) - m);
      odd = odd + ExpNonPositive(Load(logits + i + kLanes) - m);
    }
    for (; i < end; i += kLanes) {
      const int n = static_cast<int>(MinOf<int64_t>(kLanes, end - i));
      even = even + KeepRange(ExpNonPositive(LoadN(logits + i, n) - m), 0, n, 0.0f);
    }
    total += static_cast<double>(ReduceAdd(even + odd));
  }
  return total;
}

inline int64_t CountGreater(const float* logits, int64_t count, float threshold) {
  const VF t = Set1(threshold);
  int64_t n = 0;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    n += __builtin_popcount(GreaterMask(Load(logits + i), t));
  for (; i < count; ++i) n += logits[i] > threshold;
  return n;
}

inline int64_t FindGreater(const float* logits, int64_t begin, int64_t count, float threshold) {
  const VF t = Set1(threshold);
  int64_t i = begin;
  for (; i + kLanes <= count; i += kLanes) {
    const uint32_t mask = GreaterMask(Load(logits + i), t);
    if (mask != 0) return i + __builtin_ctz(mask);
  }
  for (; i < count; ++i) {
    if (logits[i] > threshold) return i;
  }
  return count;
}

typedef float F8 __attribute__((vector_size(32)));
typedef int32_t I8Narrow __attribute__((vector_size(32)));

// Eight logits from p on; past n lanes are -infinity, which never are candidates.
LORAMUX_INLINE D8 LoadEight(const float* p, int64_t n) {
  F8 v;
  if (n >= 8) {
    __builtin_memcpy(&v, p, sizeof(v));
  } else {
    v = F8{} - __builtin_inff();
    for (int i = 0; i < n; ++i) v[i] = p[i];
  }
  return __builtin_convertvector(v, D8);
}

inline void BucketPass(const BucketPassArgs& args) {
  constexpr int kLast = kSampleBuckets - 1;
  const double max = static_cast<double>(args.max);
  D8 rest{};
  for (int64_t i = 0; i < args.count; i += 8) {
    const D8 scaled = (LoadEight(args.logits + i, args.count - i) - max) * args.inverse_temperature;
    const D8 weight = ExpNonPositive(scaled);
    D8 position = scaled * -kSampleBucketsPerUnit;
    const I8 far = ~(position < static_cast<double>(kLast));
    position = (D8)(((I8)position & ~far) | ((I8)(D8{} + static_cast<double>(kLast)) & far));
    const I8Narrow bucket = __builtin_convertvector(position, I8Narrow);
    const I8 candidate = scaled >= args.lowest_scaled;
    int all_far = 1;
    for (int lane = 0; lane < 8; ++lane) {
      all_far &= static_cast<int>((far[lane] & candidate[lane]) != 0);
      args.bucket[i + lane] =
          candidate[lane] != 0 ? static_cast<uint16_t>(bucket[lane]) : kNoBucket;
    }
    // Most of a vocabulary is usually far below the maximum; it is added up eight at a time.
    if (all_far != 0) {
      rest += weight;
      args.tokens[kLast] += 8;
      continue;
    }
    for (int lane = 0; lane < 8; ++lane) {
      if (candidate[lane] == 0) continue;
      args.mass[bucket[lane]] += weight[lane];
      ++args.tokens[bucket[lane]];
    }
  }
  for (int lane = 0; lane < 8; ++lane) args.mass[kLast] += rest[lane];
}

inline void Weights(const float* logits, int64_t count, float max, double inverse_temperature,
                    double* out) {
  for (int64_t i = 0; i < count; i += 8) {
    const D8 scaled =
        (LoadEight(logits + i, count - i) - static_cast<double>(max)) * inverse_temperature;
    const D8 weight = ExpNonPositive(scaled);
    const int64_t n = MinOf<int64_t>(8, count - i);
    for (int64_t lane = 0; lane < n; ++lane) out[i + lane] = weight[lane];
  }
}

inline void ExpArray(const float* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int n = static_cast<int>(MinOf<int64_t>(kLanes, count - i));
    StoreN(out + i, ExpNonPositive(LoadN(x + i, n)), n);
  }
}

}  // namespace loramux::LORAMUX_SIMD_NS
