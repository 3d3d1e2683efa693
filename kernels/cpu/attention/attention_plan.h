// How a call of paged attention is cut into units, and where its workspace holds what. Plain code
// for all instruction sets; ISA code calls none of it but the always-inlined accessors.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "loramux/paged_attention.h"

namespace loramux {

// What an instruction set says about its needs.
struct AttentionNeeds {
  int32_t unit_rows = 0;      // query rows (tokens x heads of a group) of one unit, about
  int32_t row_multiple = 1;   // rows of a unit's state are rounded up to this
  int64_t query_bytes = 0;    // of one prepared query row, a multiple of 4
  int64_t worker_bytes = 0;   // scratch of one worker, without the state of its rows
  bool several_heads = false;  // a unit may have several kv heads
};

// Online-softmax state of query rows: weights are relative to the row's largest score so far.
struct RowState {
  float* max;  // [rows]
  float* sum;  // [rows]
  float* acc;  // [rows, stride]: weighted values

  __attribute__((always_inline)) RowState From(int64_t row, int64_t stride) const {
    return {max + row, sum + row, acc + row * stride};
  }
};

// One unit: query tokens [first, first + count) of a sequence against chunks of its keys, kv heads
// [kv_head, kv_head + heads). Several heads when the rows of one are few: a block's heads lie side
// by side, and what the processor fetches ahead past one of them is the next.
struct AttendUnit {
  int32_t sequence = 0;
  int32_t kv_head = 0;
  int32_t heads = 1;
  int64_t first = 0;         // packed row of the first query token
  int32_t count = 0;         // query tokens
  int32_t position = 0;      // of the first query token
  int32_t first_chunk = 0;   // chunks [first_chunk, last_chunk)
  int32_t last_chunk = 0;
  float* partials = nullptr;  // state of each chunk, ascending; null: the unit is all of its rows
};

// One call, as kernels see it.
struct AttentionCall {
  const PagedAttentionArgs* args = nullptr;
  AttentionNeeds needs;
  // Cache layout, bytes.
  int64_t element_bytes = 0, head_bytes = 0, block_bytes = 0, scale_offset = 0;
  bool in_quads = false;     // KvInQuads
  int64_t stride = 0;        // floats of a row's accumulator
  int64_t slot_floats = 0;   // of one chunk's state of one unit
  int64_t state_offset = 0;  // of two states in a worker's scratch, bytes: total, chunk at hand
  char* queries = nullptr;   // [num_kv_heads, num_tokens, group] rows of query_bytes
  char* scratch = nullptr;   // [threads] of worker_bytes
  float* partials = nullptr;

  __attribute__((always_inline)) int32_t Group() const {
    return args->num_heads / args->num_kv_heads;
  }
  __attribute__((always_inline)) char* QueryRows(int64_t kv_head, int64_t token) const {
    return queries + (kv_head * args->num_tokens + token) * Group() * needs.query_bytes;
  }
  // A head of a block, and its scales (kI8).
  __attribute__((always_inline)) int64_t HeadOffset(int64_t block, int64_t kv_head) const {
    return block * block_bytes + kv_head * head_bytes;
  }
  // State of `rows` rows (a unit's largest number, rounded) in memory of slot_floats floats.
  __attribute__((always_inline)) RowState State(float* memory) const {
    const int64_t rows = StateRows();
    return {memory, memory + rows, memory + 2 * rows};
  }
  __attribute__((always_inline)) int64_t StateRows() const {
    const int64_t group = Group();
    return RoundRows(group > needs.unit_rows ? group : needs.unit_rows);
  }
  // Rows of each head of a unit, in its state one after the other.
  __attribute__((always_inline)) int64_t HeadRows(int64_t tokens) const {
    return RoundRows(tokens * Group());
  }
  __attribute__((always_inline)) int64_t RoundRows(int64_t rows) const {
    return (rows + needs.row_multiple - 1) / needs.row_multiple * needs.row_multiple;
  }
};

// Unit sizes of a call. Which units there are never changes a row's result.
class AttentionPlan {
 public:
  AttentionPlan(const AttentionCall& call, int32_t threads);

  int64_t Units() const { return units_; }
  // Units whose rows were spread over several units and need their chunks merged.
  int64_t MergeUnits() const { return merge_units_; }
  int64_t PartialFloats() const { return partial_floats_; }
  // Multiply-adds of the whole call.
  int64_t Cost() const { return cost_; }

 private:
  friend class AttendCursor;
  const PagedAttentionArgs& Args() const { return *call_.args; }
  int32_t Length(int32_t sequence) const;
  int32_t Tokens(int32_t sequence) const;     // of one unit
  int64_t Tiles(int32_t sequence) const;      // of tokens
  int32_t FirstChunk(int32_t sequence, int32_t position) const;
  int32_t Chunks(int32_t sequence) const;     // that any row of the sequence sees
  int64_t HeadCost(int32_t sequence) const;   // of one tile of tokens and one kv head
  int32_t Heads(int32_t sequence) const;      // kv heads of a unit at most
  int64_t HeadTiles(int32_t sequence) const;  // tiles of tokens and heads
  int32_t Parts(int32_t sequence) const;      // units that share one tile of rows
  void Count();

  AttentionCall call_;
  int64_t cost_per_unit_ = 0;  // above, rows are spread
  int64_t units_ = 0, merge_units_ = 0, partial_floats_ = 0, cost_ = 0;
};

// Walks units in ascending order; one cursor per worker. Within a sequence the last (longest) token
// tiles come first, so that the end of the call is not one long unit.
class AttendCursor {
 public:
  AttendCursor(const AttentionPlan& plan, bool merge) : plan_(plan), merge_(merge) {}
  AttendUnit Seek(int64_t unit);

 private:
  int64_t UnitsOf(int32_t sequence) const;

  const AttentionPlan& plan_;
  bool merge_;
  int32_t sequence_ = 0;
  int64_t first_unit_ = 0;
  int64_t partial_ = 0;  // floats of the sequences before
};

}  // namespace loramux
