#include <cmath>
#include <vector>

#include "loramux/paged_attention.h"

namespace loramux {
namespace {

// Inverse frequencies of dynamic NTK scaling for a sequence of `length` tokens. Hugging Face holds
// the length in a tensor there, so every operation is a float32 one; so are these.
void DynamicInverseFrequencies(const RopeConfig& config, int32_t length, float* inv_freq) {
  const int32_t d = config.rotary_dim;
  const float factor = static_cast<float>(config.dynamic_factor);
  const float stretched =
      factor * static_cast<float>(length) / static_cast<float>(config.dynamic_max_positions) -
      static_cast<float>(config.dynamic_factor - 1.0);
  const float exponent = static_cast<float>(static_cast<double>(d) / static_cast<double>(d - 2));
  const float base = static_cast<float>(config.dynamic_base) * std::pow(stretched, exponent);
  for (int32_t i = 0; i < d / 2; ++i) {
    const float power = static_cast<float>(2 * i) / static_cast<float>(d);
    inv_freq[i] = 1.0f / std::pow(base, power);
  }
}

}  // namespace

void RopeTable(const RopeConfig& config, const int32_t* positions, const int32_t* rope_lengths,
               int64_t num_tokens, float* out) {
  const int32_t half = config.rotary_dim / 2;
  const bool dynamic = config.dynamic_max_positions > 0 && rope_lengths != nullptr;
  std::vector<float> scaled(dynamic ? static_cast<size_t>(half) : 0);
  int32_t scaled_length = -1;  // that `scaled` was computed for; tokens of a sequence share it
  for (int64_t t = 0; t < num_tokens; ++t) {
    const float* inv_freq = config.inv_freq;
    if (dynamic && rope_lengths[t] > config.dynamic_max_positions) {
      if (rope_lengths[t] != scaled_length) {
        scaled_length = rope_lengths[t];
        DynamicInverseFrequencies(config, scaled_length, scaled.data());
      }
      inv_freq = scaled.data();
    }
    const float position = static_cast<float>(positions[t]);
    float* cos = out + t * config.rotary_dim;
    float* sin = cos + half;
    for (int32_t i = 0; i < half; ++i) {
      const float angle = position * inv_freq[i];
      cos[i] = std::cos(angle) * config.attention_scaling;
      sin[i] = std::sin(angle) * config.attention_scaling;
    }
  }
}

}  // namespace loramux
