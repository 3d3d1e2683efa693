// Samples the rows of a step, several at once.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "loramux/sampler.h"
#include "session/config.h"
#include "session/step_input.h"
#include "session/step_output.h"
#include "session/step_pool.h"

namespace loramux {

class RowSampler {
 public:
  // Shares the rows among the threads of `pool`, which must outlive the sampler.
  RowSampler(const SessionConfig& config, StepPool* pool);

  // logits [R, vocab]. A row that is not finite, or whose mask does not come, is marked in
  // row_status with token 0; the other rows are answered.
  void Sample(const StepInput& input, const float* logits, StepOutput* output);

 private:
  struct ScratchDeleter {
    void operator()(SamplerScratch* scratch) const { DestroySamplerScratch(scratch); }
  };

  // The mask of row r, null where it has none; false when it did not come before the deadline.
  bool AwaitMask(const StepInput& input, size_t r, std::chrono::steady_clock::time_point deadline,
                 std::chrono::steady_clock::duration* waited, const uint32_t** allowed) const;

  int32_t vocab_;
  MaskMemory masks_;
  Isa isa_;
  StepPool* pool_;
  std::vector<std::unique_ptr<SamplerScratch, ScratchDeleter>> scratch_;  // one per thread
  std::vector<std::chrono::steady_clock::duration> waited_;               // for masks, per thread
};

}  // namespace loramux
