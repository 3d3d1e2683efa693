#include "session/row_sampler.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "session/spin.h"

namespace loramux {
namespace {

using Clock = std::chrono::steady_clock;

// A mask that is late is looked for this long without giving the core away, then while giving it
// to whoever needs it, maybe the thread that computes the mask, then between sleeps. A sleep lasts
// 50 us longer than it says, several masks' time.
constexpr std::chrono::microseconds kMaskSpin{20};
constexpr std::chrono::microseconds kMaskYield{300};
constexpr std::chrono::microseconds kMaskSleep{50};

SamplerRow MakeRow(const StepInput& input, size_t r, const float* logits) {
  SamplerRow row;
  row.logits = logits;
  row.target_id = input.target_ids[r];
  row.temperature = input.temperature[r];
  row.top_k = input.top_k[r];
  row.top_p = input.top_p[r];
  row.min_p = input.min_p[r];
  row.repetition_penalty = input.repetition_penalty[r];
  row.presence_penalty = input.presence_penalty[r];
  row.frequency_penalty = input.frequency_penalty[r];
  row.seed = static_cast<uint64_t>(input.seed[2 * r]) |
             (static_cast<uint64_t>(input.seed[2 * r + 1]) << 32);
  row.sample_index = input.sample_index[r];
  row.num_top_logprobs = input.num_top_logprobs[r];
  const int32_t history = input.history_start[r];
  row.history = input.history.data() + history;
  row.history_length = input.history_start[r + 1] - history;
  row.history_prompt_length = input.history_prompt_length[r];
  const int32_t bias = input.bias_start[r];
  row.bias_ids = input.bias_ids.data() + bias;
  row.bias_values = input.bias_values.data() + bias;
  row.num_bias = input.bias_start[r + 1] - bias;
  return row;
}

}  // namespace

RowSampler::RowSampler(const SessionConfig& config, StepPool* pool)
    : vocab_(config.model.vocab_size), masks_(config.masks), isa_(config.isa), pool_(pool) {
  for (int32_t i = 0; i < pool_->threads(); ++i) {
    scratch_.emplace_back(CreateSamplerScratch(vocab_));
  }
  waited_.resize(scratch_.size());
}

bool RowSampler::AwaitMask(const StepInput& input, size_t r, Clock::time_point deadline,
                           Clock::duration* waited, const uint32_t** allowed) const {
  *allowed = nullptr;
  const int32_t slot = input.mask_slots[r];
  if (slot < 0) return true;
  int32_t* words = masks_.words + static_cast<int64_t>(slot) * masks_.stride;
  const std::atomic_ref<int32_t> stamp(words[0]);
  int32_t seen = 0;
  const auto settled = [&] {
    seen = stamp.load(std::memory_order_acquire);
    return seen == input.mask_stamps[r] || seen == kMaskNever;
  };
  if (!settled()) {
    const Clock::time_point begin = Clock::now();
    bool done = SpinUntil(kMaskSpin, settled);
    for (auto now = Clock::now(); !done && now < deadline; now = Clock::now()) {
      if (now - begin < kMaskYield) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(kMaskSleep);
      }
      done = settled();
    }
    *waited += Clock::now() - begin;
  }
  if (seen != input.mask_stamps[r]) return false;
  *allowed = reinterpret_cast<const uint32_t*>(words + kMaskHeaderWords);
  return true;
}

void RowSampler::Sample(const StepInput& input, const float* logits, StepOutput* output) {
  const size_t rows = static_cast<size_t>(input.num_rows);
  output->num_rows = input.num_rows;
  output->token_ids.assign(rows, 0);
  output->logprobs.assign(rows, 0.0f);
  output->ranks.assign(rows, 0);
  output->top_ids.assign(rows * kMaxTopLogprobs, -1);
  output->top_logprobs.assign(rows * kMaxTopLogprobs, 0.0f);
  output->row_status.assign(rows, RowStatus::kOk);
  std::fill(waited_.begin(), waited_.end(), Clock::duration::zero());
  const Clock::time_point deadline = Clock::now() + std::chrono::milliseconds(masks_.wait_ms);
  pool_->For(rows, [&](int32_t worker, size_t r) {
    SamplerRow row = MakeRow(input, r, logits + r * static_cast<size_t>(vocab_));
    Clock::duration* waited = &waited_[static_cast<size_t>(worker)];
    if (!AwaitMask(input, r, deadline, waited, &row.allowed)) {
      output->row_status[r] = RowStatus::kNoMask;
      return;
    }
    SamplerOutput sampled;
    sampled.top_ids = output->top_ids.data() + r * kMaxTopLogprobs;
    sampled.top_logprobs = output->top_logprobs.data() + r * kMaxTopLogprobs;
    if (!SampleRow(row, vocab_, scratch_[static_cast<size_t>(worker)].get(), &sampled, isa_)) {
      output->row_status[r] = RowStatus::kNotFinite;
      return;
    }
    output->token_ids[r] = sampled.token_id;
    output->logprobs[r] = sampled.logprob;
    output->ranks[r] = sampled.rank;
  });
  output->mask_wait_ms = std::chrono::duration<double, std::milli>(
                             *std::max_element(waited_.begin(), waited_.end()))
                             .count();
}

}  // namespace loramux
