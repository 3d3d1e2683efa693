#include "loramux/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace loramux::reference {
namespace {

uint16_t ToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  const uint32_t low = bits & 0xffffu;
  uint32_t high = bits >> 16;
  if (low > 0x8000u || (low == 0x8000u && (high & 1u) != 0)) ++high;
  return static_cast<uint16_t>(high);
}

float FromBf16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// RMS norm (weight may be null), then rotary embedding, of one head.
std::vector<double> Prepare(const PagedAttentionArgs& a, const float* src, const float* weight,
                            int64_t token) {
  const size_t d = static_cast<size_t>(a.head_size);
  std::vector<double> head(src, src + d);
  if (weight != nullptr) {
    double squares = 0.0;
    for (double v : head) squares += v * v;
    const double inverse =
        1.0 / std::sqrt(squares / static_cast<double>(d) + static_cast<double>(a.norm_eps));
    for (size_t i = 0; i < d; ++i) head[i] *= inverse * static_cast<double>(weight[i]);
  }
  const size_t half = static_cast<size_t>(a.rotary_dim) / 2;
  for (size_t i = 0; i < half; ++i) {
    const float* table = a.cos_sin + token * a.rotary_dim;
    const double cos = static_cast<double>(table[i]);
    const double sin = static_cast<double>(table[half + i]);
    const double x = head[i];
    const double y = head[half + i];
    head[i] = x * cos - y * sin;
    head[half + i] = y * cos + x * sin;
  }
  return head;
}

void Put(const PagedAttentionArgs& a, void* cache, int64_t index, float value) {
  if (a.kv_dtype == KvDtype::kBf16) {
    static_cast<uint16_t*>(cache)[index] = ToBf16(value);
  } else {
    static_cast<float*>(cache)[index] = value;
  }
}

double Get(const PagedAttentionArgs& a, const void* cache, int64_t index) {
  if (a.kv_dtype == KvDtype::kBf16) {
    return static_cast<double>(FromBf16(static_cast<const uint16_t*>(cache)[index]));
  }
  return static_cast<double>(static_cast<const float*>(cache)[index]);
}

int64_t CacheIndex(const PagedAttentionArgs& a, int64_t slot, int64_t kv_head) {
  return (slot * a.num_kv_heads + kv_head) * a.head_size;
}

void AttendRow(const PagedAttentionArgs& a, int32_t sequence, int64_t token, int32_t position,
               int32_t head) {
  const int64_t d = a.head_size;
  const int64_t kv_head = head / (a.num_heads / a.num_kv_heads);
  const std::vector<double> q = Prepare(a, a.q + token * a.q_stride + head * d, a.q_norm, token);
  const int32_t first = a.sliding_window > 0 ? std::max(0, position - a.sliding_window + 1) : 0;
  const auto index_of = [&](int32_t p) {
    const int64_t block =
        a.block_tables[static_cast<int64_t>(sequence) * a.max_blocks + p / a.block_size];
    return CacheIndex(a, block * a.block_size + p % a.block_size, kv_head);
  };
  std::vector<double> scores;
  double max = -HUGE_VAL;
  for (int32_t p = first; p <= position; ++p) {
    const int64_t at = index_of(p);
    double dot = 0.0;
    for (int64_t i = 0; i < d; ++i) dot += q[static_cast<size_t>(i)] * Get(a, a.k_cache, at + i);
    scores.push_back(dot * static_cast<double>(a.softmax_scale));
    max = std::max(max, scores.back());
  }
  std::vector<double> acc(static_cast<size_t>(d), 0.0);
  double sum = 0.0;
  for (int32_t p = first; p <= position; ++p) {
    const double w = std::exp(scores[static_cast<size_t>(p - first)] - max);
    const int64_t at = index_of(p);
    sum += w;
    for (int64_t i = 0; i < d; ++i) acc[static_cast<size_t>(i)] += w * Get(a, a.v_cache, at + i);
  }
  float* out = a.out + (token * a.num_heads + head) * d;
  for (int64_t i = 0; i < d; ++i) out[i] = static_cast<float>(acc[static_cast<size_t>(i)] / sum);
}

}  // namespace

void PagedAttention(const PagedAttentionArgs& a) {
  const int64_t d = a.head_size;
  for (int64_t t = 0; t < a.num_tokens; ++t) {
    for (int32_t h = 0; h < a.num_kv_heads; ++h) {
      const std::vector<double> k = Prepare(a, a.k + t * a.k_stride + h * d, a.k_norm, t);
      const float* v = a.v + t * a.v_stride + h * d;
      const int64_t at = CacheIndex(a, a.slot_mapping[t], h);
      for (int64_t i = 0; i < d; ++i) {
        Put(a, a.k_cache, at + i, static_cast<float>(k[static_cast<size_t>(i)]));
        Put(a, a.v_cache, at + i, v[i]);
      }
    }
  }
  for (int32_t s = 0; s < a.num_sequences; ++s) {
    for (int32_t t = a.query_start[s]; t < a.query_start[s + 1]; ++t) {
      const int32_t position = a.context_lens[s] - (a.query_start[s + 1] - t);
      for (int32_t h = 0; h < a.num_heads; ++h) AttendRow(a, s, t, position, h);
    }
  }
}

}  // namespace loramux::reference
