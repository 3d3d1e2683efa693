// Stored adapter weights to bfloat16 in SegmentedLora's order, for one instruction set: both
// matrices are transposed in pairs of elements, which are words of 32 bits.
#pragma once

#include "cpu/convert_impl.h"
#include "loramux/lora_weights.h"

namespace loramux::LORAMUX_SIMD_NS {

constexpr int64_t kTilePairs = kLanes;  // of one row, in a vector

// Pairs of the first n elements at p, times scale; pairs past them are zero.
template <WeightDtype D>
LORAMUX_INLINE VF LoadPairsScaled(const uint8_t* p, int64_t n, VF scale, bool keep) {
  constexpr int64_t kBytes = WeightDtypeBytes(D);
  VF pairs = Zero();
  if (n <= 0) return pairs;
  if (D == WeightDtype::kBf16 && keep) {
    if (n >= 2 * kLanes) {
      __builtin_memcpy(&pairs, p, sizeof(pairs));
    } else {
      __builtin_memcpy(&pairs, p, static_cast<size_t>(n * kBytes));
    }
    return pairs;
  }
  VU16 halves[2] = {RoundToBf16(LoadWeightsN<D>(p, n) * scale)};
  if (n > kLanes) {
    halves[1] = RoundToBf16(LoadWeightsN<D>(p + kLanes * kBytes, n - kLanes) * scale);
  }
  __builtin_memcpy(&pairs, halves, sizeof(pairs));
  return pairs;
}

// `bad` collects lanes with an infinity or a NaN in either half.
LORAMUX_INLINE void CheckPairs(VF pairs, VI* bad) {
  const VI bits = (VI)pairs;
  *bad |= (bits & 0x7f800000) == 0x7f800000;
  *bad |= (bits & 0x7f80) == 0x7f80;
}

// to[p, i] = pair p of source row i, for rows [0, rows), rows <= 16, and pairs [0, pairs). Source
// rows hold `elements` elements; pairs past them are zero. `to` has `ld` pairs per row.
template <WeightDtype D>
LORAMUX_INLINE void TransposePairs(const uint8_t* from, int64_t from_stride, int64_t rows,
                                   int64_t elements, int64_t pairs, VF scale, bool keep, float* to,
                                   int64_t ld, VI* bad) {
  constexpr int64_t kBytes = WeightDtypeBytes(D);
  for (int64_t p = 0; p < pairs; p += kTilePairs) {
    const int64_t depth = MinOf(kTilePairs, pairs - p);
    for (int64_t i = 0; i < rows; i += kLanes) {
      const int height = static_cast<int>(MinOf<int64_t>(kLanes, rows - i));
      VF v[kLanes];
      for (int r = 0; r < kLanes; ++r) {
        v[r] = r < height ? LoadPairsScaled<D>(from + (i + r) * from_stride + 2 * p * kBytes,
                                               elements - 2 * p, scale, keep)
                          : Zero();
        CheckPairs(v[r], bad);
      }
      Transpose(v);
      for (int64_t j = 0; j < depth; ++j) {
        float* at = to + (p + j) * ld + i;
        if (height == kLanes) {
          Store(at, v[j]);
        } else {
          StoreN(at, v[j], height);
        }
      }
    }
  }
}

LORAMUX_INLINE bool NoneBad(VI bad) {
  int32_t any = 0;
  for (int lane = 0; lane < kLanes; ++lane) any |= bad[lane];
  return any == 0;
}

template <WeightDtype D>
bool PackRunA(const uint8_t* from, int64_t rank, int64_t in, float* to) {
  const int64_t stride = in * static_cast<int64_t>(WeightDtypeBytes(D));
  const int64_t pairs = CeilDiv(in, kLoraInputMultiple) * kLoraInputMultiple / 2;
  VI bad{};
  for (int64_t k = 0; k < rank; k += kLoraPanel) {
    const int64_t width = MinOf(kLoraPanel, rank - k);
    TransposePairs<D>(from + k * stride, stride, width, in, pairs, Set1(1.0f), true, to, width,
                      &bad);
    to += pairs * width;
  }
  return NoneBad(bad);
}

template <WeightDtype D>
bool PackRunB(const uint8_t* from, int64_t rank, int64_t out, float scale, float* to) {
  const int64_t stride = rank * static_cast<int64_t>(WeightDtypeBytes(D));
  const int64_t pairs = CeilDiv(rank, 2);
  VI bad{};
  for (int64_t o = 0; o < out; o += kLoraPanel) {
    const int64_t columns = MinOf(kLoraPanel, out - o);
    if (columns < kLoraPanel && pairs > 0) {
      __builtin_memset(to, 0, static_cast<size_t>(pairs * kLoraPanel) * sizeof(float));
    }
    TransposePairs<D>(from + o * stride, stride, columns, rank, pairs, Set1(scale), scale == 1.0f,
                      to, kLoraPanel, &bad);
    to += pairs * kLoraPanel;
  }
  return NoneBad(bad);
}

inline bool PackLoraBf16A(const void* from, WeightDtype dtype, int64_t rank, int64_t in, void* to) {
  return ForDtype(dtype, [&](auto as) {
    return PackRunA<as.kDtype>(static_cast<const uint8_t*>(from), rank, in,
                               static_cast<float*>(to));
  });
}

inline bool PackLoraBf16B(const void* from, WeightDtype dtype, int64_t rank, int64_t out,
                          float scale, void* to) {
  return ForDtype(dtype, [&](auto as) {
    return PackRunB<as.kDtype>(static_cast<const uint8_t*>(from), rank, out, scale,
                               static_cast<float*>(to));
  });
}

}  // namespace loramux::LORAMUX_SIMD_NS
