// The running step's adapters as SegmentedLora wants them.
#pragma once

#include <vector>

#include "loramux/segmented_lora.h"
#include "session/step_input.h"

namespace loramux::ops {

// Replaces `segments` with the runs of rows whose adapter changes the module.
void CollectLoraSegments(const StepInput& input, int32_t layer, int32_t module,
                         std::vector<LoraSegment>* segments);

}  // namespace loramux::ops
