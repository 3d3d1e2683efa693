// The functions that exist once per instruction set.
#pragma once

#include "cpu/lora/lora_kernels.h"
#include "loramux/convert.h"
#include "loramux/packed_linear.h"
#include "loramux/paged_attention.h"
#include "loramux/types.h"

namespace loramux {

// Buckets of the sampler's histogram: width 1/16 over [0, 32) below the maximum (after
// temperature), the last one takes the rest. kNoBucket: the token is not a candidate.
constexpr int32_t kSampleBuckets = 513;
constexpr double kSampleBucketsPerUnit = 16.0;
constexpr uint16_t kNoBucket = 0xffff;

struct BucketPassArgs {
  const float* logits = nullptr;  // [count]
  int64_t count = 0;
  float max = 0.0f;  // largest logit
  double inverse_temperature = 1.0;
  double lowest_scaled = 0.0;  // candidates have (logit - max) / temperature >= this
  uint16_t* bucket = nullptr;  // out [count]; rounded up to a multiple of 8 entries
  double* mass = nullptr;      // [kSampleBuckets], added to: sum of exp((logit - max) / T)
  int32_t* tokens = nullptr;   // [kSampleBuckets], added to
};

struct KernelTable {
  lora::LoraKernels lora_f32;
  void (*paged_attention)(const PagedAttentionArgs& args, const Parallel& parallel);

  // Largest value; *unusable is set when one is NaN or +infinity. count >= 1.
  float (*max_logit)(const float* logits, int64_t count, bool* unusable);
  // Sum of exp(logit - max).
  double (*sum_exp)(const float* logits, int64_t count, float max);
  int64_t (*count_greater)(const float* logits, int64_t count, float threshold);
  // First index in [begin, count) whose value is greater than threshold, or count.
  int64_t (*find_greater)(const float* logits, int64_t begin, int64_t count, float threshold);
  void (*bucket_pass)(const BucketPassArgs& args);
  // Weights exp((logit - max) * inverse_temperature) of a list of logits; the same bits as
  // bucket_pass adds up.
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

}  // namespace loramux
