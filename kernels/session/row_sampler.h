// Samples the rows of a step, several at once.
#pragma once

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

  // logits [R, vocab]. A row that is not finite is marked in row_status with token 0; the other
  // rows are answered.
  void Sample(const StepInput& input, const float* logits, StepOutput* output);

 private:
  struct ScratchDeleter {
    void operator()(SamplerScratch* scratch) const { DestroySamplerScratch(scratch); }
  };

  int32_t vocab_;
  Isa isa_;
  StepPool* pool_;
  std::vector<std::unique_ptr<SamplerScratch, ScratchDeleter>> scratch_;  // one per thread
};

}  // namespace loramux
