// Stored weights to float32 for one instruction set.
#pragma once

#include "cpu/simd.h"
#include "loramux/convert.h"

namespace loramux::LORAMUX_SIMD_NS {

template <WeightDtype D>
LORAMUX_INLINE VF LoadWeights(const uint8_t* p) {
  if (D == WeightDtype::kF32) {
    VF v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
  }
  return D == WeightDtype::kF16 ? WidenF16(LoadHalves(p)) : WidenBf16(LoadHalves(p));
}

// Lanes at and past n are zero.
template <WeightDtype D>
LORAMUX_INLINE VF LoadWeightsN(const uint8_t* p, int64_t n) {
  if (n >= kLanes) return LoadWeights<D>(p);
  constexpr size_t kBytes = WeightDtypeBytes(D);
  uint8_t buffer[kLanes * sizeof(float)] = {};
  __builtin_memcpy(buffer, p, static_cast<size_t>(n) * kBytes);
  return LoadWeights<D>(buffer);
}

template <WeightDtype D>
void ConvertRun(const uint8_t* src, size_t count, float* dst, float scale) {
  constexpr size_t kBytes = WeightDtypeBytes(D);
  const VF s = Set1(scale);
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(dst + i, LoadWeights<D>(src + i * kBytes) * s);
  if (i < count) {
    const int tail = static_cast<int>(count - i);
    StoreN(dst + i, LoadWeightsN<D>(src + i * kBytes, tail) * s, tail);
  }
}

template <WeightDtype D>
void ConvertTransposedRun(const uint8_t* src, int64_t rows, int64_t cols, float* dst, float scale) {
  constexpr int64_t kBytes = WeightDtypeBytes(D);
  const VF s = Set1(scale);
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int height = static_cast<int>(MinOf<int64_t>(kLanes, rows - r));
    for (int64_t c = 0; c < cols; c += kLanes) {
      const int width = static_cast<int>(MinOf<int64_t>(kLanes, cols - c));
      VF v[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        v[i] =
            i < height ? LoadWeightsN<D>(src + ((r + i) * cols + c) * kBytes, width) * s : Zero();
      }
      Transpose(v);
      for (int i = 0; i < width; ++i) StoreN(dst + (c + i) * rows + r, v[i], height);
    }
  }
}

template <WeightDtype D>
struct StoredAs {
  static constexpr WeightDtype kDtype = D;
};

// run(StoredAs<dtype>()).
template <typename Run>
LORAMUX_INLINE auto ForDtype(WeightDtype dtype, Run&& run) {
  switch (dtype) {
    case WeightDtype::kF32:
      return run(StoredAs<WeightDtype::kF32>());
    case WeightDtype::kF16:
      return run(StoredAs<WeightDtype::kF16>());
    case WeightDtype::kBf16:
      break;
  }
  return run(StoredAs<WeightDtype::kBf16>());
}

inline void Convert(const void* src, WeightDtype dtype, size_t count, float* dst, float scale) {
  ForDtype(dtype, [&](auto as) {
    ConvertRun<as.kDtype>(static_cast<const uint8_t*>(src), count, dst, scale);
  });
}

inline void ConvertTransposed(const void* src, WeightDtype dtype, int64_t rows, int64_t cols,
                              float* dst, float scale) {
  ForDtype(dtype, [&](auto as) {
    ConvertTransposedRun<as.kDtype>(static_cast<const uint8_t*>(src), rows, cols, dst, scale);
  });
}

inline bool AllFinite(const float* values, size_t count) {
  VI bad{};
  size_t i = 0;
  const auto check = [&bad](VF v) __attribute__((always_inline)) {
    bad |= ((VI)v & 0x7f800000) == 0x7f800000;
  };
  for (; i + kLanes <= count; i += kLanes) check(Load(values + i));
  if (i < count) check(LoadN(values + i, static_cast<int>(count - i)));
  int32_t any = 0;
  for (int lane = 0; lane < kLanes; ++lane) any |= bad[lane];
  return any == 0;
}

}  // namespace loramux::LORAMUX_SIMD_NS
