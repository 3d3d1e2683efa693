#include "session/row_sampler.h"

namespace loramux {
namespace {

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
    : vocab_(config.model.vocab_size), isa_(config.isa), pool_(pool) {
  for (int32_t i = 0; i < pool_->threads(); ++i) {
    scratch_.emplace_back(CreateSamplerScratch(vocab_));
  }
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
  pool_->For(rows, [&](int32_t worker, size_t r) {
    const SamplerRow row = MakeRow(input, r, logits + r * static_cast<size_t>(vocab_));
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
}

}  // namespace loramux
