// What an instruction set supplies for SegmentedLora: one piece of shrink, one piece of expand,
// per dtype. cpu/lora/segmented_lora.cc cuts the work into pieces; but for the chunks of inputs,
// how it is cut never changes a row's bits.
#pragma once

#include "loramux/segmented_lora.h"

namespace loramux::lora {

// h[r, k] = dot(x[r, first_in .. last_in], A[k, ...]) for rows [0, rows) and ranks [first_rank,
// last_rank). float32: all inputs, and times the segment's scale. bfloat16 and int8: one panel of
// ranks, one chunk of inputs.
struct ShrinkPiece {
  const LoraSegment* segment = nullptr;
  const float* x = nullptr;  // of the piece's first row, input 0
  int64_t x_stride = 0;
  int64_t rows = 0;
  int64_t in = 0;
  int64_t first_rank = 0, last_rank = 0;
  int64_t first_in = 0, last_in = 0;
  float* h = nullptr;  // [rows, rank], of the piece's first row and of its chunk
};

// y[r, c] += sum over k of h[r, k] * B[k, c] for columns c in [first, last), first a multiple of a
// panel. bfloat16 and int8: h is the segment's scale times the sum of the chunks in order.
struct ExpandPiece {
  const LoraSegment* segment = nullptr;
  const float* h = nullptr;  // [chunks, segment's rows, rank], of the piece's first row
  int64_t chunks = 1;
  int64_t chunk_stride = 0;  // floats
  int64_t rows = 0;
  int64_t out = 0;
  int64_t first = 0, last = 0;
  float* y = nullptr;  // of the piece's first row, column 0
  int64_t y_stride = 0;
};

struct LoraKernels {
  void (*shrink)(const ShrinkPiece& piece) = nullptr;
  void (*expand)(const ExpandPiece& piece) = nullptr;
};

// To one dtype, see loramux/lora_weights.h.
struct LoraPackers {
  bool (*pack_a)(const void* from, WeightDtype dtype, int64_t rank, int64_t in, void* to) = nullptr;
  bool (*pack_b)(const void* from, WeightDtype dtype, int64_t rank, int64_t out, float scale,
                 void* to) = nullptr;
};

// Rows of a piece at most, by dtype.
inline constexpr int64_t kRowBlock = 32;
inline constexpr int64_t kRowBlockNarrow = 64;  // bfloat16, int8
// Inputs of a bfloat16 or int8 sum that is added to others: part of the arithmetic.
inline constexpr int64_t kChunkInputs = 1024;
static_assert(kChunkInputs == kLoraGroup, "a chunk has one scale");
// Floats of a piece's h, ranks rounded up to 64: what a kernel keeps on its stack.
inline constexpr int64_t kPieceH = 8192;
static_assert(kMaxLoraRank <= kPieceH);
// Weights are fetched this far ahead, bytes.
inline constexpr int64_t kFetchAhead = 2048;

namespace amx {
extern const LoraKernels kBf16Kernels;
extern const LoraKernels kI8Kernels;
}

}  // namespace loramux::lora
