// What an instruction set supplies for SegmentedLora: one piece of shrink, one piece of expand.
// cpu/lora/segmented_lora.cc cuts the work into pieces. How it is cut never changes a row's bits.
#pragma once

#include "loramux/segmented_lora.h"

namespace loramux::lora {

// h[r, k] = scale * dot(x[r], A[k]) for rows [0, rows) and ranks [first, last).
struct ShrinkPiece {
  const LoraSegment* segment = nullptr;
  const float* x = nullptr;  // of the piece's first row
  int64_t x_stride = 0;
  int64_t rows = 0;
  int64_t in = 0;
  int64_t first = 0, last = 0;
  float* h = nullptr;  // [rows, rank], of the piece's first row
};

// y[r, c] += sum over k of h[r, k] * B[k, c] for columns c in [first, last).
struct ExpandPiece {
  const LoraSegment* segment = nullptr;
  const float* h = nullptr;  // [rows, rank], of the piece's first row
  int64_t rows = 0;
  int64_t out = 0;
  int64_t first = 0, last = 0;
  float* y = nullptr;  // of the piece's first row
  int64_t y_stride = 0;
};

struct LoraKernels {
  void (*shrink)(const ShrinkPiece& piece) = nullptr;
  void (*expand)(const ExpandPiece& piece) = nullptr;
};

// Rows of a piece at most.
inline constexpr int64_t kRowBlock = 32;

}  // namespace loramux::lora
