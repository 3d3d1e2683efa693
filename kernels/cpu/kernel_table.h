// The functions that exist once per instruction set.
#pragma once

#include "cpu/lora/lora_kernels.h"
#include "loramux/convert.h"
#include "loramux/packed_linear.h"
#include "loramux/types.h"

namespace loramux {

// Buckets of the sampler's histogram: width 1/16 over [0, 64) below the maximum (after
// temperature). What is lower is no candidate: a whole vocabulary there (kMaxVocab) weighs less
// than 2^-68 of the best token, and a uniform number of 53 bits never falls on it. kNoBucket: no
// candidate.
constexpr int32_t kSampleBuckets = 1024;
constexpr double kSampleBucketsPerUnit = 16.0;
constexpr uint16_t kNoBucket = kSampleBuckets;
// Tokens that are looked at together; each has a histogram of its own, so that neighbours that fall
// into one bucket do not wait for each other's sum.
constexpr int32_t kSampleLanes = 8;

struct BucketPassArgs {
  const float* logits = nullptr;  // [count]
  int64_t count = 0;
  float max = 0.0f;  // largest logit
  double inverse_temperature = 1.0;
  double lowest_scaled = 0.0;  // candidates have (logit - max) / temperature >= this
  uint16_t* bucket = nullptr;  // out [count], rounded up to whole kSampleLanes (kNoBucket)
  double* lanes = nullptr;     // scratch [kSampleBuckets + 1, kSampleLanes]
  const double* upper = nullptr;  // [kSampleBuckets]: weight at the upper end of each bucket
  double* mass = nullptr;  // out [kSampleBuckets]: sum of exp((logit - max) / T)
};

struct KernelTable {
  lora::LoraKernels lora_f32;
  lora::LoraKernels lora_bf16;
  lora::LoraKernels lora_i8;
  lora::LoraPackers lora_bf16_packers;
  lora::LoraPackers lora_i8_packers;

  // Largest value; *unusable is set when one is NaN or +infinity. count >= 1.
  float (*max_logit)(const float* logits, int64_t count, bool* unusable);
  // Sum of exp(logit - max).
  double (*sum_exp)(const float* logits, int64_t count, float max);
  int64_t (*count_greater)(const float* logits, int64_t count, float threshold);
  // First index in [begin, count) whose value is greater than threshold, or count.
  int64_t (*find_greater)(const float* logits, int64_t begin, int64_t count, float threshold);
  // The sums are the same bits on every instruction set: lane l adds up the tokens l, l + 8, ... in
  // order, then the lanes are added in pairs.
  void (*bucket_pass)(const BucketPassArgs& args);
  // Writes the indices i in [0, count) with bucket[i] == wanted to out, ascending; how many. count
  // is a multiple of kSampleLanes.
  int64_t (*find_bucket)(const uint16_t* bucket, int64_t count, uint16_t wanted, int32_t* out);
  // Weights exp((logit - max) * inverse_temperature) of a list of logits, the same bits on every
  // instruction set; bucket_pass adds up the same numbers to about 1e-14.
  void (*weights)(const float* logits, int64_t count, float max, double inverse_temperature,
                  double* out);

  void (*convert)(const void* src, WeightDtype dtype, size_t count, float* dst, float scale);
  void (*convert_transposed)(const void* src, WeightDtype dtype, int64_t rows, int64_t cols,
                             float* dst, float scale);
  bool (*all_finite)(const float* values, size_t count);
  // exp of non-positive floats, exposed for its accuracy test.
  void (*exp_non_positive)(const float* x, int64_t count, float* out);
  // Row x [k] (2k with kSwiGlu) -> out [k]: norm or gate of a packed linear layer.
  void (*prologue)(const PackedLinearArgs& args, const float* x, float* out);
  // Rotate of packed_linear.h.
  void (*rotate)(float* row, int64_t padded_k);
};

// Falls back to the portable table where an instruction set is not compiled in. The caller has
// checked that the processor has it.
const KernelTable& KernelsFor(Isa isa);

namespace isa_scalar {
extern const KernelTable kTable;
}
namespace isa_avx2 {
extern const KernelTable kTable;
}
namespace isa_avx512 {
extern const KernelTable kTable;
}
namespace isa_neon {
extern const KernelTable kTable;
}

}  // namespace loramux
