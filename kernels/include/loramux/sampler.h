// Token sampling from raw logits, one row at a time.
//
// Order (as vLLM): log-probabilities are taken from the raw logits; then logit bias, repetition
// penalty (Keskar et al. 2019), presence and frequency penalties (OpenAI), the mask of allowed
// tokens, temperature, min-p, top-k, top-p; then one draw. The draw is inverse-CDF over the kept
// tokens in descending order (ties by lower id) with a uniform number that is a pure function of
// (seed, sample_index), so a request's tokens do not depend on the batch around it.
#pragma once

#include "loramux/types.h"

namespace loramux {

constexpr int32_t kMaxTopLogprobs = 20;

struct SamplerRow {
  const float* logits = nullptr;  // [vocab]; not modified
  int32_t target_id = -1;         // >= 0: score this token instead of sampling
  float temperature = 0.0f;       // 0: greedy (after bias and penalties; ties by lower id)
  int32_t top_k = 0;              // 0: off
  float top_p = 1.0f;             // 1: off
  float min_p = 0.0f;             // 0: off
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;
  int32_t sample_index = 0;
  // Best tokens to report, up to kMaxTopLogprobs. -1: the token alone, without the passes over the
  // vocabulary that its log-probability and rank cost (both are 0 then).
  int32_t num_top_logprobs = 0;
  const int32_t* history = nullptr;  // prompt then output tokens
  int32_t history_length = 0;
  int32_t history_prompt_length = 0;
  const int32_t* bias_ids = nullptr;
  const float* bias_values = nullptr;
  int32_t num_bias = 0;
  // Bit id % 32 of word id / 32: whether the token may be sampled; [(vocab + 31) / 32], null: all.
  const uint32_t* allowed = nullptr;
};

struct SamplerOutput {
  int32_t token_id = 0;
  float logprob = 0.0f;
  int32_t rank = 0;            // 1 + number of tokens with a larger raw logit
  int32_t* top_ids = nullptr;  // [kMaxTopLogprobs], best first (ties by lower id)
  float* top_logprobs = nullptr;
};

// Reusable per-thread scratch; grows to vocab size once, no allocation after warm-up.
struct SamplerScratch;
SamplerScratch* CreateSamplerScratch(int32_t vocab);
void DestroySamplerScratch(SamplerScratch* scratch);

// False when the row has a NaN, +infinity or no finite logit, when bias, penalties and mask leave
// none, or when target_id is not below vocab (the caller fails that request, not the step).
// -infinity is a banned token; a bias of -infinity bans one. Ids of bias and history that are
// outside [0, vocab) touch nothing. Temperatures below 1e-5 are greedy.
//
// The decision is the same bits on every ISA: weights are computed with the same double operations
// everywhere. log-probabilities agree to about 1e-6.
bool SampleRow(const SamplerRow& row, int32_t vocab, SamplerScratch* scratch, SamplerOutput* out,
               Isa isa);

// Uniform in [0, 1) with 53 bits: Philox4x32-10 (Salmon et al. 2011) of key seed, counter index.
double SamplerUniform(uint64_t seed, uint64_t index);

namespace reference {
bool SampleRow(const SamplerRow& row, int32_t vocab, SamplerOutput* out);
}  // namespace reference

}  // namespace loramux
