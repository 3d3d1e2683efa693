// Segmented LoRA: y[t] += scale * B (A x[t]) for runs of rows that use one adapter, or the sum of
// that over several adapters.
// After SGMV (Chen et al., Punica, arXiv 2310.18547) with ragged, unpadded ranks (S-LoRA,
// 2311.03285).
#pragma once

#include "loramux/lora_weights.h"
#include "loramux/types.h"

namespace loramux {

// A run of rows [begin, end) under one adapter. rank 0: the adapter does not change this module,
// rows are left untouched bit for bit. Several adapters on the same rows are that many segments in
// a row with the same bounds: a row's deltas are added to it one after another, in that order.
struct LoraSegment {
  int32_t begin = 0;
  int32_t end = 0;
  int32_t rank = 0;
  LoraDtype dtype = LoraDtype::kF32;
  float scale = 1.0f;
  const void* a = nullptr;  // as PackLoraA and PackLoraB write them
  const void* b = nullptr;
};

struct SegmentedLoraArgs {
  const float* x = nullptr;  // [rows, x_stride], the first `in` of each row
  int64_t x_stride = 0;
  float* y = nullptr;  // [rows, y_stride], the first `out` of each row; holds the base product
  int64_t y_stride = 0;
  int64_t rows = 0;
  int64_t in = 0;  // >= 1
  int64_t out = 0;
  // Ascending; two have the same rows (and stand together) or none in common. Rows in none are
  // untouched.
  const LoraSegment* segments = nullptr;
  int64_t num_segments = 0;
  void* workspace = nullptr;  // SegmentedLoraWorkspace(...) bytes, 64-byte aligned
};

// Bytes of workspace. Reads in, out and the segments' bounds, ranks and dtypes only. Contents need
// not be initialised and mean nothing afterwards.
int64_t SegmentedLoraWorkspace(const SegmentedLoraArgs& args);

// A row's result depends only on that row, its adapters and the ISA: never on the other rows, the
// segment's length or the number of threads (bitwise).
//
// Two phases with a barrier between them, shrink (h = A x) and expand (y = y + scale * B h).
//
// float32 adapters: h = scale * (A x), each element a dot product in chunks of 1024 inputs, chunk
// sums added in order. y = y + (sum over k ascending of h[k] * B[:, k]), the sum is taken on its
// own so that a small delta is not rounded at y's size.
//
// bfloat16 adapters: weights are exact, sums are float32, x and h enter with 16 significant bits
// at least. h is summed in chunks of 1024 inputs (even inputs and odd ones apart), chunk sums are
// added in order and then scaled. Without AMX x and h stay float32, and the sum over k ascending
// is taken on its own as above. With AMX x and h are each split into a bfloat16 and the rest as
// another, and sums over 32 elements are taken on their own; numbers below 2^-126 count as zero.
//
// int8 adapters: levels are exact. h is summed in chunks of 1024 inputs, which are a group each: a
// chunk's sum is multiplied by its scale, chunks are added in order and then scaled. h times the
// scales of B's group of outputs is summed over k on its own. Without AMX sums are float32,
// elements with equal remainders by 4 apart, and x above 2^120 may overflow. With AMX x of a
// chunk, and h, become numbers of 16 bits relative to the row's largest, whose sums are exact
// (those over k of whole multiples of 64 ranks and of the rest apart); a row whose largest is below
// 2^-100 counts as zero, and one with a number that is not finite gives NaN.
//
// AMX units load tile configurations of their own and release the tiles: callers that hold tiles
// configure again after a unit.
void SegmentedLora(const SegmentedLoraArgs& args, const Parallel& parallel, Isa isa);

// The same work in units, for callers that run it beside other work: all shrink units, in any
// order and on any threads, then (a barrier) all expand units likewise. x must be complete before
// the first shrink unit; y need not be before the expand units. Units of one phase never write to
// the same place. Without segments of a rank above 0 there are none. A unit is worth a few
// microseconds.
struct SegmentedLoraPlan {
  int64_t shrink_units = 0;
  int64_t expand_units = 0;
  // Multiply-adds of each phase, to judge how many threads are worth waking.
  int64_t shrink_cost = 0;
  int64_t expand_cost = 0;

  // The kernel's own. The tables lie in args.workspace; the segments are borrowed too.
  SegmentedLoraArgs args;
  Isa isa = Isa::kScalar;
  const void* shapes = nullptr;
  const void* shrink_starts = nullptr;
  const void* expand_starts = nullptr;
  float* h = nullptr;
};
SegmentedLoraPlan PlanSegmentedLora(const SegmentedLoraArgs& args, Isa isa);
void SegmentedLoraShrinkUnit(const SegmentedLoraPlan& plan, int64_t unit);
void SegmentedLoraExpandUnit(const SegmentedLoraPlan& plan, int64_t unit);

namespace reference {
// Plain loops, double accumulation. Needs no workspace.
void SegmentedLora(const SegmentedLoraArgs& args);
}  // namespace reference

}  // namespace loramux
