// What the custom operators see of the session while a step runs. The graph carries only hidden
// states; block tables, adapter segments and caches reach the operators through here.
#pragma once

#include <cstdint>
#include <vector>

#include "loramux/packed_linear.h"
#include "loramux/segmented_lora.h"
#include "loramux/types.h"
#include "session/config.h"
#include "session/kv_pool.h"
#include "session/memory.h"
#include "session/step_input.h"

namespace loramux {

struct StepContext {
  const SessionConfig* config = nullptr;
  KvPool* kv = nullptr;
  // Set while a step runs, else null; operators refuse to run without it.
  const StepInput* input = nullptr;
  const float* cos_sin = nullptr;  // [T, 2, rotary_dim / 2] of this step
  int32_t rotary_dim = 0;
  // The session's own threads, where the operators do the heavy work themselves (packed weights).
  // Without `run`, operators use ONNX Runtime's threads, which its matrix products keep busy: two
  // pools on the same cores would take them from each other. See ops::KernelParallel.
  Parallel parallel;

  // Scratch, reused; the graph runs its nodes one after another, so one of each is enough.
  Workspace lora_workspace{"the adapter workspace"};
  Workspace attention_workspace{"the attention workspace"};
  std::vector<LoraSegment> lora_segments;
  std::vector<LoraSegment> part_segments[kMaxParts];
  Workspace packed_workspace{"the workspace of packed weights"};
  Workspace prepared_rows{"normalised rows"};
};

}  // namespace loramux
