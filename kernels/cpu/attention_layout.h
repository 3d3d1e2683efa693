// Where paged attention keeps what inside its workspace. The same for all instruction sets; plain
// inline code that is always inlined, so that nothing here is shared between them by the linker.
#pragma once

#include <stdint.h>

#include "loramux/paged_attention.h"

namespace loramux {

constexpr int kTileKeys = 64;   // keys of one tile, aligned to absolute positions
constexpr int kQueryRows = 64;  // query rows (tokens x heads of a group) of one unit, about

// Views into one worker's scratch. Rows are (query token, head of the group).
struct TileScratch {
  float* keys_t;  // [head_size, kTileKeys]: keys of the tile, transposed
  float* scores;  // [rows, kTileKeys]: scores, then weights
  float* acc;     // [rows, stride]: weighted values so far
  float* max;     // [rows]: largest score so far
  float* sum;     // [rows]: sum of weights so far
  int32_t* low;   // [rows]: visible keys of this tile are [low, high)
  int32_t* high;
  int64_t stride;  // head_size rounded up to whole vectors of any instruction set

  // The same tile, with the running state of the rows from `first` on.
  __attribute__((always_inline)) TileScratch Rows(int64_t first) const {
    TileScratch s = *this;
    s.acc += first * stride;
    s.max += first;
    s.sum += first;
    return s;
  }
};

struct AttentionLayout {
  float* base = nullptr;
  int64_t query_floats = 0;
  int64_t rows = 0;
  int64_t stride = 0;
  int64_t worker_floats = 0;

  __attribute__((always_inline)) explicit AttentionLayout(const PagedAttentionArgs& args) {
    const int64_t group = args.num_heads / args.num_kv_heads;
    // Cache lines: what one worker writes is not on a line that another reads.
    base = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(args.workspace) + 63) &
                                    ~static_cast<uintptr_t>(63));
    query_floats = RoundUp(args.num_tokens * args.num_heads * args.head_size);
    rows = group > kQueryRows ? group : kQueryRows;
    stride = RoundUp(args.head_size);
    worker_floats = static_cast<int64_t>(args.head_size) * kTileKeys + rows * kTileKeys +
                    rows * stride + RoundUp(4 * rows);
  }

  __attribute__((always_inline)) static int64_t RoundUp(int64_t floats) {
    return (floats + 15) / 16 * 16;
  }
  __attribute__((always_inline)) int64_t TotalFloats(int64_t threads) const {
    return 16 + query_floats + threads * worker_floats;  // 16: aligning the start
  }
  // Rotated queries [num_kv_heads, num_tokens, group, head_size].
  __attribute__((always_inline)) float* QueryRows(const PagedAttentionArgs& args, int64_t kv_head,
                                                  int64_t token) const {
    const int64_t group = args.num_heads / args.num_kv_heads;
    return base + (kv_head * args.num_tokens + token) * group * args.head_size;
  }
  __attribute__((always_inline)) float* WorkerScratch(const PagedAttentionArgs&,
                                                      int64_t worker) const {
    return base + query_floats + worker * worker_floats;
  }
  __attribute__((always_inline)) TileScratch Scratch(const PagedAttentionArgs& args,
                                                     float* scratch) const {
    TileScratch s;
    s.stride = stride;
    s.keys_t = scratch;
    s.scores = s.keys_t + static_cast<int64_t>(args.head_size) * kTileKeys;
    s.acc = s.scores + rows * kTileKeys;
    s.max = s.acc + rows * stride;
    s.sum = s.max + rows;
    s.low = reinterpret_cast<int32_t*>(s.sum + rows);
    s.high = s.low + rows;
    return s;
  }
};

}  // namespace loramux
