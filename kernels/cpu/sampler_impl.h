// Passes over a row of logits for one instruction set. The logic of sampling is in cpu/sampler.cc.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/simd.h"

namespace loramux::LORAMUX_SIMD_NS {

// A NaN compares with nothing, so it is looked for among the bits: without their sign they are
// ordered as numbers, and above infinity there are only NaNs.
LORAMUX_INLINE VU Magnitude(VF v) { return (VU)v << 1; }
LORAMUX_INLINE VU LargerOf(VU a, VU b) { return a > b ? a : b; }

inline float MaxLogit(const float* logits, int64_t count, bool* unusable) {
  constexpr uint32_t kInfinity = 0xff000000u;  // its Magnitude
  const VF lowest = Set1(-__builtin_inff());
  // Several, for the next one need not wait; the largest of all is the same in any order.
  VF largest[4] = {lowest, lowest, lowest, lowest};
  VU magnitude[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int part = 0; part < 4; ++part) {
      const VF v = Load(logits + i + part * kLanes);
      largest[part] = Max(largest[part], v);
      magnitude[part] = LargerOf(magnitude[part], Magnitude(v));
    }
  }
  for (; i + kLanes <= count; i += kLanes) {
    const VF v = Load(logits + i);
    largest[0] = Max(largest[0], v);
    magnitude[0] = LargerOf(magnitude[0], Magnitude(v));
  }
  const VU all = LargerOf(LargerOf(magnitude[0], magnitude[1]),
                          LargerOf(magnitude[2], magnitude[3]));
  float max = ReduceMax(Max(Max(largest[0], largest[1]), Max(largest[2], largest[3])));
  bool any = !(max < __builtin_inff());
  for (int lane = 0; lane < kLanes; ++lane) any = any || all[lane] > kInfinity;
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

LORAMUX_INLINE D8 ToDouble(F8 v) {
#if defined(LORAMUX_SIMD_AVX512)
  return (D8)_mm512_cvtps_pd((__m256)v);  // the compiler would do it in two halves
#else
  return __builtin_convertvector(v, D8);
#endif
}

// e^x for |x| <= 1/16 to about 1e-14 relative; e^0 is exactly 1.
LORAMUX_INLINE D8 ExpSmall(D8 x) {
  D8 p = D8{} + 1.0 / 5040.0;
  p = p * x + 1.0 / 720.0;
  p = p * x + 1.0 / 120.0;
  p = p * x + 1.0 / 24.0;
  p = p * x + 1.0 / 6.0;
  p = p * x + 0.5;
  p = p * x + 1.0;
  return p * x + 1.0;
}

// A token's weight is that of its bucket's upper end, which the whole bucket shares, times what it
// is below that: only the latter is computed for each token. The best tokens weigh exactly 1, so
// that ties among them are shared out evenly.
LORAMUX_INLINE void BucketEight(const BucketPassArgs& args, D8 logits, uint16_t* bucket_out,
                                double* lanes) {
  typedef uint16_t U16x8 __attribute__((vector_size(16)));
  const D8 scaled = (logits - static_cast<double>(args.max)) * args.inverse_temperature;
  const D8 position = scaled * -kSampleBucketsPerUnit;
  const I8 candidate =
      (scaled >= args.lowest_scaled) & (position < static_cast<double>(kSampleBuckets));
  const D8 none = D8{} + static_cast<double>(kNoBucket);
  const D8 kept = (D8)(((I8)position & candidate) | ((I8)none & ~candidate));
  const I8Narrow bucket = __builtin_convertvector(kept, I8Narrow);
  const D8 offset = kept - __builtin_convertvector(bucket, D8);
  const D8 weight = ExpSmall(offset * (-1.0 / kSampleBucketsPerUnit));
  const U16x8 narrow = __builtin_convertvector(bucket, U16x8);
  __builtin_memcpy(bucket_out, &narrow, sizeof(narrow));
  for (int lane = 0; lane < kSampleLanes; ++lane) {
    lanes[bucket[lane] * kSampleLanes + lane] += weight[lane];
  }
}

inline void BucketPass(const BucketPassArgs& args) {
  const int64_t count = args.count;
  __builtin_memset(args.lanes, 0,
                   static_cast<size_t>((kSampleBuckets + 1) * kSampleLanes) * sizeof(double));
  // No candidate is at or below this: a quick look at many tokens spares most of them when the rest
  // of the distribution is far away. The margin covers the rounding of both sides.
  const double lowest = MaxOf(args.lowest_scaled, -(kSampleBuckets / kSampleBucketsPerUnit)) - 1e-3;
  const double best = static_cast<double>(args.max);
  const double below = best + lowest / args.inverse_temperature;
  const double magnitude = MaxOf(MaxOf(best, -best), MaxOf(below, -below));
  const VF far = Set1(static_cast<float>(below - 1e-6 * magnitude));
  constexpr int64_t kBlock = kLanes > kSampleLanes ? kLanes : kSampleLanes;
  int64_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    uint32_t any = 0;
    for (int64_t at = i; at < i + kBlock; at += kLanes) {
      any |= GreaterMask(Load(args.logits + at), far);
    }
    if (any == 0) {
      for (int64_t at = i; at < i + kBlock; ++at) args.bucket[at] = kNoBucket;
      continue;
    }
    for (int64_t at = i; at < i + kBlock; at += kSampleLanes) {
      F8 v;
      __builtin_memcpy(&v, args.logits + at, sizeof(v));
      BucketEight(args, ToDouble(v), args.bucket + at, args.lanes);
    }
  }
  for (; i < count; i += kSampleLanes) {
    BucketEight(args, LoadEight(args.logits + i, count - i), args.bucket + i, args.lanes);
  }
  for (int b = 0; b < kSampleBuckets; ++b) {
    const double* l = args.lanes + b * kSampleLanes;
    const double sum = ((l[0] + l[1]) + (l[2] + l[3])) + ((l[4] + l[5]) + (l[6] + l[7]));
    args.mass[b] = sum * args.upper[b];
  }
}

inline int64_t FindBucket(const uint16_t* bucket, int64_t count, uint16_t wanted, int32_t* out) {
  typedef uint16_t U16x32 __attribute__((vector_size(64)));
  int64_t n = 0;
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    U16x32 v;
    __builtin_memcpy(&v, bucket + i, sizeof(v));
    const U8 equal = (U8)(v == wanted);
    for (int part = 0; part < 8; ++part) {
      if (equal[part] == 0) continue;
      for (int64_t at = i + part * 4; at < i + part * 4 + 4; ++at) {
        if (bucket[at] == wanted) out[n++] = static_cast<int32_t>(at);
      }
    }
  }
  for (; i < count; ++i) {
    if (bucket[i] == wanted) out[n++] = static_cast<int32_t>(i);
  }
  return n;
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
