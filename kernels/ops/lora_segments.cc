#include "ops/lora_segments.h"

namespace loramux::ops {

void CollectLoraSegments(const StepInput& input, int32_t layer, int32_t module,
                         std::vector<LoraSegment>* segments) {
  segments->clear();
  for (const StepSegment& run : input.segments) {
    const AdapterModule& weights = run.adapter->Module(layer, module);
    if (weights.rank == 0) continue;
    LoraSegment segment;
    segment.begin = run.begin;
    segment.end = run.end;
    segment.rank = weights.rank;
    segment.dtype = weights.dtype;
    segment.scale = run.scale * weights.scale;
    segment.a = weights.a;
    segment.b = weights.b;
    segments->push_back(segment);
  }
}

}  // namespace loramux::ops
