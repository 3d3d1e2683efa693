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

// One token of one kv head in the cache.
struct Slot {
  char* head;
  int64_t inside;
  KvSide side;
};

Slot At(const PagedAttentionArgs& a, KvSide side, int64_t block, int64_t inside, int64_t kv_head) {
  char* head = static_cast<char*>(side == KvSide::kKey ? a.k_cache : a.v_cache) +
               block * KvBlockBytes(a.kv_dtype, a.block_size, a.num_kv_heads, a.head_size) +
               kv_head * KvHeadBytes(a.kv_dtype, a.block_size, a.head_size);
  return {head, inside, side};
}

char* Scale(const PagedAttentionArgs& a, const Slot& slot) {
  return slot.head + KvScaleOffset(a.kv_dtype, a.block_size, a.head_size) + 4 * slot.inside;
}

char* Element(const PagedAttentionArgs& a, const Slot& slot, size_t i) {
  const int64_t bytes = a.kv_dtype == KvDtype::kF32 ? 4 : a.kv_dtype == KvDtype::kBf16 ? 2 : 1;
  return slot.head + bytes * KvElementIndex(slot.side, a.kv_dtype, a.block_size, a.head_size,
                                            slot.inside, static_cast<int64_t>(i));
}

void Put(const PagedAttentionArgs& a, const Slot& slot, const std::vector<float>& head) {
  float largest = 0.0f;
  bool finite = true;
  for (float v : head) {
    finite = finite && std::isfinite(v);
    largest = std::max(largest, std::fabs(v));
  }
  const bool zero = !finite || largest < 1e-30f;
  if (a.kv_dtype == KvDtype::kI8) {
    const float scale = !finite ? NAN : zero ? 0.0f : largest / 127.0f;
    std::memcpy(Scale(a, slot), &scale, sizeof(scale));
  }
  for (size_t i = 0; i < head.size(); ++i) {
    char* to = Element(a, slot, i);
    if (a.kv_dtype == KvDtype::kF32) {
      std::memcpy(to, &head[i], sizeof(float));
    } else if (a.kv_dtype == KvDtype::kBf16) {
      const uint16_t half = ToBf16(head[i]);
      std::memcpy(to, &half, sizeof(half));
    } else {
      // Not straight to char, which has no sign on arm64.
      const float level = zero ? 0.0f : std::nearbyint(head[i] * (127.0f / largest));
      *to = static_cast<char>(static_cast<int8_t>(level));
    }
  }
}

std::vector<double> Get(const PagedAttentionArgs& a, const Slot& slot) {
  std::vector<double> head(static_cast<size_t>(a.head_size));
  float scale = 1.0f;
  if (a.kv_dtype == KvDtype::kI8) std::memcpy(&scale, Scale(a, slot), sizeof(scale));
  for (size_t i = 0; i < head.size(); ++i) {
    const char* from = Element(a, slot, i);
    if (a.kv_dtype == KvDtype::kI8) {
      head[i] = static_cast<double>(static_cast<int8_t>(*from)) * static_cast<double>(scale);
    } else if (a.kv_dtype == KvDtype::kBf16) {
      uint16_t half;
      std::memcpy(&half, from, sizeof(half));
      head[i] = static_cast<double>(FromBf16(half));
    } else {
      float value;
      std::memcpy(&value, from, sizeof(value));
      head[i] = static_cast<double>(value);
    }
  }
  return head;
}

void AttendRow(const PagedAttentionArgs& a, int32_t sequence, int64_t token, int32_t position,
               int32_t head) {
  const int64_t d = a.head_size;
  const int64_t kv_head = head / (a.num_heads / a.num_kv_heads);
  const std::vector<double> q = Prepare(a, a.q + token * a.q_stride + head * d, a.q_norm, token);
  const int32_t first = a.sliding_window > 0 ? std::max(0, position - a.sliding_window + 1) : 0;
  const auto cached = [&](KvSide side, int32_t p) {
    const int64_t block =
        a.block_tables[static_cast<int64_t>(sequence) * a.max_blocks + p / a.block_size];
    return Get(a, At(a, side, block, p % a.block_size, kv_head));
  };
  std::vector<double> scores;
  double max = -HUGE_VAL;
  for (int32_t p = first; p <= position; ++p) {
    const std::vector<double> k = cached(KvSide::kKey, p);
    double dot = 0.0;
    for (size_t i = 0; i < k.size(); ++i) dot += q[i] * k[i];
    scores.push_back(dot * static_cast<double>(a.softmax_scale));
    max = std::max(max, scores.back());
  }
  std::vector<double> acc(static_cast<size_t>(d), 0.0);
  double sum = 0.0;
  for (int32_t p = first; p <= position; ++p) {
    const double w = std::exp(scores[static_cast<size_t>(p - first)] - max);
    const std::vector<double> v = cached(KvSide::kValue, p);
    sum += w;
    for (size_t i = 0; i < v.size(); ++i) acc[i] += w * v[i];
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
      const int64_t block = a.slot_mapping[t] / a.block_size;
      const int64_t inside = a.slot_mapping[t] % a.block_size;
      Put(a, At(a, KvSide::kKey, block, inside, h), std::vector<float>(k.begin(), k.end()));
      Put(a, At(a, KvSide::kValue, block, inside, h), std::vector<float>(v, v + d));
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
