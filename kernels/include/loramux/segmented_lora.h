// Segmented LoRA: y[t] += scale * B (A x[t]) for runs of rows that use one adapter.
// After SGMV (Chen et al., Punica, arXiv 2310.18547) with ragged, unpadded ranks (S-LoRA,
// 2311.03285).
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
  // [rank, out], optional: b transposed (ConvertTransposedToF32). When set, b is not read and may
  // be null. Faster, and the same bits: b is otherwise transposed tile by tile on every call.
  const float* bt = nullptr;
};

struct SegmentedLoraArgs {
  const float* x = nullptr;  // [rows, in]
  float* y = nullptr;        // [rows, out], read and written; holds the base product
  int64_t rows = 0;
  int64_t in = 0;  // >= 1
  int64_t out = 0;
  const LoraSegment* segments = nullptr;  // disjoint, ascending; rows in none are untouched
  int64_t num_segments = 0;
  float* workspace = nullptr;  // SegmentedLoraWorkspace(...) floats
};

// Floats of workspace for a call: the sum over segments of (rows of the segment * rank). Contents
// need not be initialised and mean nothing afterwards.
int64_t SegmentedLoraWorkspace(const LoraSegment* segments, int64_t num_segments);

// A row's result depends only on that row, its adapter and the ISA: never on the other rows, the
// segment's length or the number of threads (bitwise).
//
// Two phases with a barrier between them. Shrink: h = scale * (A x), each element a dot product in
// chunks of 1024 inputs, chunk sums added in order. Expand: y = y + (sum over k ascending of
// h[k] * B[:, k]), the sum is taken on its own so that a small delta is not rounded at y's size.
void SegmentedLora(const SegmentedLoraArgs& args, const Parallel& parallel, Isa isa);

namespace reference {
// Plain loops, double accumulation. Needs no workspace.
void SegmentedLora(const SegmentedLoraArgs& args);
}  // namespace reference

}  // namespace loramux
