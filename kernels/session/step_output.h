// What one step answers; buffers are reused from step to step. Shapes as StepResult in
// src/native/addon-types.ts.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace loramux {

// kNoMask: the mask of allowed tokens did not come in time, or never will.
enum class RowStatus : uint8_t { kOk = 0, kNotFinite = 1, kNoMask = 2 };

struct StepOutput {
  int32_t num_rows = 0;
  std::vector<int32_t> token_ids;    // [R]
  std::vector<float> logprobs;       // [R]
  std::vector<int32_t> ranks;        // [R]
  std::vector<int32_t> top_ids;      // [R, kMaxTopLogprobs]
  std::vector<float> top_logprobs;   // [R, kMaxTopLogprobs]
  std::vector<RowStatus> row_status;  // [R]
  std::unique_ptr<float[]> logits;   // [R, vocab], only when asked for
  double native_ms = 0.0;
  double gap_ms = 0.0;  // from the end of the step before, 0 for the first one
  double mask_wait_ms = 0.0;  // sampling waited for masks; the longest wait of a thread
};

}  // namespace loramux
