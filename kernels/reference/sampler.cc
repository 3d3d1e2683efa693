#include "loramux/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <vector>

namespace loramux::reference {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

std::vector<int32_t> Descending(const std::vector<float>& logits) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  return order;
}

std::vector<float> Penalised(const SamplerRow& row, int32_t vocab) {
  std::vector<float> logits(row.logits, row.logits + vocab);
  const auto valid = [vocab](int32_t id) { return id >= 0 && id < vocab; };
  for (int32_t i = 0; i < row.num_bias; ++i) {
    if (valid(row.bias_ids[i])) logits[static_cast<size_t>(row.bias_ids[i])] += row.bias_values[i];
  }
  std::map<int32_t, int32_t> output_count;  // a key for each distinct token of prompt and output
  for (int32_t i = 0; i < row.history_length; ++i) {
    if (valid(row.history[i])) output_count[row.history[i]] += i >= row.history_prompt_length;
  }
  for (const auto& [id, count] : output_count) {
    float& v = logits[static_cast<size_t>(id)];
    v = v > 0.0f ? v / row.repetition_penalty : v * row.repetition_penalty;
    v -= row.frequency_penalty * static_cast<float>(count);
    if (count > 0) v -= row.presence_penalty;
  }
  for (int32_t id = 0; row.allowed != nullptr && id < vocab; ++id) {
    const bool allowed = (row.allowed[id / 32] >> (id % 32) & 1) != 0;
    if (!allowed) logits[static_cast<size_t>(id)] = kMinusInfinity;
  }
  return logits;
}

// Returns -1 when nothing is left to choose.
int32_t Choose(const SamplerRow& row, int32_t vocab) {
  const std::vector<float> logits = Penalised(row, vocab);
  for (float v : logits) {
    if (!(v < std::numeric_limits<float>::infinity())) return -1;
  }
  const std::vector<int32_t> order = Descending(logits);
  const auto at = [&](size_t i) { return logits[static_cast<size_t>(order[i])]; };
  if (at(0) == kMinusInfinity) return -1;
  if (row.temperature < 1e-5f) return order[0];

  std::vector<double> weights;
  const double inverse_temperature = 1.0 / static_cast<double>(row.temperature);
  for (size_t i = 0; i < order.size() && at(i) > kMinusInfinity; ++i) {
    const double scaled =
        (static_cast<double>(at(i)) - static_cast<double>(at(0))) * inverse_temperature;
    if (row.min_p > 0.0f && scaled < std::log(static_cast<double>(row.min_p))) break;
    if (row.top_k > 0 && static_cast<int32_t>(i) >= row.top_k) break;
    weights.push_back(std::exp(scaled));
  }
  double mass = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (row.top_p < 1.0f) {
    const double wanted = static_cast<double>(row.top_p) * mass;
    size_t kept = 0;
    double sum = 0.0;
    do {
      sum += weights[kept++];
    } while (kept < weights.size() && sum < wanted);
    weights.resize(kept);
    mass = sum;
  }
  const double target = SamplerUniform(row.seed, static_cast<uint64_t>(row.sample_index)) * mass;
  double sum = 0.0;
  for (size_t i = 0; i < weights.size(); ++i) {
    sum += weights[i];
    if (sum > target) return order[i];
  }
  return order[weights.size() - 1];
}

}  // namespace

bool SampleRow(const SamplerRow& row, int32_t vocab, SamplerOutput* out) {
  if (vocab <= 0 || row.target_id >= vocab) return false;
  const std::vector<float> raw(row.logits, row.logits + vocab);
  bool any_finite = false;
  for (float v : raw) {
    if (!(v < std::numeric_limits<float>::infinity())) return false;
    any_finite = any_finite || v > kMinusInfinity;
  }
  if (!any_finite) return false;
  const int32_t token = row.target_id >= 0 ? row.target_id : Choose(row, vocab);
  if (token < 0) return false;

  out->token_id = token;
  out->logprob = 0.0f;
  out->rank = 0;
  if (row.num_top_logprobs < 0) return true;
  const std::vector<int32_t> order = Descending(raw);
  const double max = static_cast<double>(raw[static_cast<size_t>(order[0])]);
  double sum = 0.0;
  for (float v : raw) sum += std::exp(static_cast<double>(v) - max);
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(static_cast<double>(raw[static_cast<size_t>(id)]) - max -
                              std::log(sum));
  };
  out->logprob = logprob(token);
  out->rank = 1;
  for (float v : raw) out->rank += v > raw[static_cast<size_t>(token)];
  const int32_t top = std::min({row.num_top_logprobs, kMaxTopLogprobs, vocab});
  for (int32_t i = 0; i < top; ++i) {
    out->top_ids[i] = order[static_cast<size_t>(i)];
    out->top_logprobs[i] = logprob(order[static_cast<size_t>(i)]);
  }
  return true;
}

}  // namespace loramux::reference
