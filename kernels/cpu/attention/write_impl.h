// Keys and values into the cache: normalised, rotated, rounded to the cache's element type.
#pragma once

#include "cpu/attention/attention_table.h"
#include "cpu/simd.h"

namespace loramux::LORAMUX_SIMD_NS {

// RMS norm (weight may be null) and rotary embedding of one head: src -> dst [head_size], scaled.
LORAMUX_INLINE void PrepareHead(const PagedAttentionArgs& args, const float* src,
                                const float* norm_weight, const float* cos_sin, float scale,
                                float* dst) {
  const int d = args.head_size;
  VF inverse = Set1(1.0f);
  if (norm_weight != nullptr) {
    VF squares = Zero();
    int i = 0;
    for (; i + kLanes <= d; i += kLanes) squares = Fma(Load(src + i), Load(src + i), squares);
    if (i < d) {
      const VF v = LoadN(src + i, d - i);
      squares = Fma(v, v, squares);
    }
    const float mean = ReduceAdd(squares) / static_cast<float>(d);
    inverse = Set1(1.0f / __builtin_sqrtf(mean + args.norm_eps));
  }
  const auto value = [&](int i, int n) __attribute__((always_inline)) {
    VF v = LoadN(src + i, n);
    if (norm_weight != nullptr) v = LoadN(norm_weight + i, n) * (v * inverse);
    return v;
  };
  const VF s = Set1(scale);
  const int half = args.rotary_dim / 2;
  const float* cos = cos_sin;
  const float* sin = cos_sin + half;
  for (int i = 0; i < half; i += kLanes) {
    const int n = MinOf(kLanes, half - i);
    const VF a = value(i, n);
    const VF b = value(half + i, n);
    const VF c = LoadN(cos + i, n);
    const VF sn = LoadN(sin + i, n);
    StoreN(dst + i, (a * c - b * sn) * s, n);
    StoreN(dst + half + i, (b * c + a * sn) * s, n);
  }
  for (int i = args.rotary_dim; i < d; i += kLanes) {
    const int n = MinOf(kLanes, d - i);
    StoreN(dst + i, value(i, n) * s, n);
  }
}

LORAMUX_INLINE float QuietNan() { return __builtin_nanf(""); }

template <typename T>
LORAMUX_INLINE void StoreHead(const float* src, int d, T* dst, float*) {
  for (int i = 0; i < d; i += kLanes) {
    const int n = MinOf(kLanes, d - i);
    StoreKvN(dst + i, LoadN(src + i, n), n);
  }
}

// Below, a head counts as zero: its reciprocal could overflow.
constexpr float kSmallestMagnitude = 1e-30f;

// Largest magnitude of a head; NaN when a value is not finite.
LORAMUX_INLINE float LargestMagnitude(const float* src, int d) {
  VI largest = (VI)Zero();
  for (int i = 0; i < d; i += kLanes) {
    // As integers, magnitudes are in order, and what is not finite comes last.
    const VI magnitude = (VI)LoadN(src + i, MinOf(kLanes, d - i)) & 0x7fffffff;
    largest = magnitude > largest ? magnitude : largest;
  }
  int32_t bits = 0;
  for (int k = 0; k < kLanes; ++k) bits = MaxOf(bits, static_cast<int32_t>(largest[k]));
  if (bits >= 0x7f800000) return QuietNan();
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// Rounds to whole numbers, ties to even; |v| < 2^22.
LORAMUX_INLINE VI RoundToInt(VF v) {
  const VF magic = Set1(12582912.0f);  // 1.5 * 2^23
  return __builtin_convertvector((v + magic) - magic, VI);
}

// Levels of a head: put(i, levels, n) stores n of them from element i on. Returns their scale.
template <typename Put>
LORAMUX_INLINE float StoreLevels(const float* src, int d, Put&& put) {
  const float largest = LargestMagnitude(src, d);
  const bool usable = largest >= kSmallestMagnitude;  // false for NaN
  const VF inverse = Set1(usable ? 127.0f / largest : 0.0f);
  for (int i = 0; i < d; i += kLanes) {
    const int n = MinOf(kLanes, d - i);
    const VF v = usable ? LoadN(src + i, n) * inverse : Zero();
    put(i, __builtin_convertvector(RoundToInt(v), VI8), n);
  }
  return usable ? largest / 127.0f : largest != largest ? largest : 0.0f;
}

LORAMUX_INLINE void StoreHead(const float* src, int d, int8_t* dst, float* scale) {
  *scale = StoreLevels(src, d, [&](int i, VI8 levels, int n) __attribute__((always_inline)) {
    __builtin_memcpy(dst + i, &levels, static_cast<size_t>(n));
  });
}

// Keys and values of token `inside` in quads; k and v begin a head of a block.
LORAMUX_INLINE void StoreKeyQuads(const float* src, int d, int64_t inside, char* k, float* scale) {
  const int64_t token = inside % kKvGroupTokens;
  char* to = k + (inside - token) * d + 4 * token;
  *scale = StoreLevels(src, d, [&](int i, VI8 levels, int n) __attribute__((always_inline)) {
    int8_t each[kLanes];
    __builtin_memcpy(each, &levels, sizeof(levels));
    for (int l = 0; l < n; l += 4) {
      __builtin_memcpy(to + static_cast<int64_t>(i + l) * kKvGroupTokens, each + l, 4);
    }
  });
}

LORAMUX_INLINE void StoreValueQuads(const float* src, int d, int64_t inside, char* v,
                                    float* scale) {
  const int64_t token = inside % kKvGroupTokens;
  char* to = v + (inside - token % 4) * d + token % 4;
  *scale = StoreLevels(src, d, [&](int i, VI8 levels, int n) __attribute__((always_inline)) {
    for (int l = 0; l < n; ++l) to[4 * (i + l)] = static_cast<char>(levels[l]);
  });
}

// Key and value of token t into the cache. `head` holds one head.
template <typename T>
LORAMUX_INLINE void WriteKeyValue(const AttentionCall& call, int64_t t, const float* cos_sin,
                                  float* head) {
  const PagedAttentionArgs& args = *call.args;
  const int d = args.head_size;
  const int32_t slot = args.slot_mapping[t];
  const int64_t inside = slot % args.block_size;
  for (int32_t h = 0; h < args.num_kv_heads; ++h) {
    const int64_t at = call.HeadOffset(slot / args.block_size, h);
    char* k = static_cast<char*>(args.k_cache) + at;
    char* v = static_cast<char*>(args.v_cache) + at;
    float* k_scale = reinterpret_cast<float*>(k + call.scale_offset) + inside;
    float* v_scale = reinterpret_cast<float*>(v + call.scale_offset) + inside;
    PrepareHead(args, args.k + t * args.k_stride + static_cast<int64_t>(h) * d, args.k_norm,
                cos_sin, 1.0f, head);
    const float* value = args.v + t * args.v_stride + static_cast<int64_t>(h) * d;
    if (call.in_quads) {
      StoreKeyQuads(head, d, inside, k, k_scale);
      StoreValueQuads(value, d, inside, v, v_scale);
      continue;
    }
    StoreHead(head, d, reinterpret_cast<T*>(k) + inside * d, k_scale);
    StoreHead(value, d, reinterpret_cast<T*>(v) + inside * d, v_scale);
  }
}

// Keys and values of tokens [first, last), and query(t, cos_sin) for each of them.
template <typename Query>
LORAMUX_INLINE void WriteTokens(const AttentionCall& call, int64_t first, int64_t last, float* head,
                                Query&& query) {
  const PagedAttentionArgs& args = *call.args;
  for (int64_t t = first; t < last; ++t) {
    const float* cos_sin =
        args.rotary_dim > 0 ? args.cos_sin + t * static_cast<int64_t>(args.rotary_dim) : nullptr;
    if (args.kv_dtype == KvDtype::kI8) {
      WriteKeyValue<int8_t>(call, t, cos_sin, head);
    } else if (args.kv_dtype == KvDtype::kBf16) {
      WriteKeyValue<uint16_t>(call, t, cos_sin, head);
    } else {
      WriteKeyValue<float>(call, t, cos_sin, head);
    }
    query(t, cos_sin);
  }
}

}  // namespace loramux::LORAMUX_SIMD_NS
