// Segmented LoRA: y[t] += scale * B (A x[t]) for runs of rows that use one adapter.
// After SGMV (Chen et al., Punica, arXiv 2310.18547) with ragged, unpadded ranks (S-LoRA, 2311.03285).
#pragma once

#include "loramux/types.h"

namespace loramux {

// A run of rows [begin, end) under one adapter. rank 0: the adapter does not change this module,
// rows are left untouched bit for bit.
struct LoraSegment {
  int32_t begin = 0;
  int32_t end = 0;
  int32_t rank = 0;
  float scale = 1.0f;
  const float* a = nullptr;  // [rank, in]
  const float* b = nullptr;  // [out, rank]; the adapter's own scale is folded in
};

struct SegmentedLoraArgs {
  const float* x = nullptr;  // [rows, in]
  float* y = nullptr;        // [rows, out], read and written; holds the base product
  int64_t rows = 0;
  int64_t in = 0;
  int64_t out = 0;
  const LoraSegment* segments = nullptr;  // disjoint, ascending; rows in none are untouched
  int64_t num_segments = 0;
  float* workspace = nullptr;  // SegmentedLoraWorkspace(...) floats
};

// Floats of workspace for a call: the sum over segments of (rows of the segment * rank).
int64_t SegmentedLoraWorkspace(const LoraSegment* segments, int64_t num_segments);

// A row's result depends only on that row, its adapter and the ISA: never on the other rows, the
// segment's length or the number of threads (bitwise).
void SegmentedLora(const SegmentedLoraArgs& args, const Parallel& parallel, Isa isa);

namespace reference {
// Plain loops, double accumulation. Needs no workspace.
void SegmentedLora(const SegmentedLoraArgs& args);
}  // namespace reference

}  // namespace loramux
