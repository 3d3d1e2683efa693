// Running softmax state of a unit's rows: per chunk of keys, merged in ascending order (Milakov and
// Gimelshein 2018). The way a row's keys were spread over units does not show in its bits: the same
// chunks are merged by the same operations.
#pragma once

#include "cpu/attention/attention_table.h"
#include "cpu/simd.h"

namespace loramux::LORAMUX_SIMD_NS {

LORAMUX_INLINE float MinusInfinity() { return -__builtin_inff(); }

LORAMUX_INLINE int32_t FirstVisible(int32_t window, int32_t position) {
  return window > 0 && position >= window ? position - window + 1 : 0;
}

LORAMUX_INLINE void ClearState(const RowState& s, int64_t rows, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    s.max[r] = MinusInfinity();
    s.sum[r] = 0.0f;
    for (int64_t i = 0; i < stride; i += kLanes) Store(s.acc + r * stride + i, Zero());
  }
}

// Exp::Of must be 1 at 0.
template <typename Exp>
LORAMUX_INLINE void MergeState(const RowState& total, const RowState& chunk, int64_t rows,
                               int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    if (chunk.sum[r] == 0.0f) continue;  // the row sees no key of the chunk
    const float max = MaxOf(total.max[r], chunk.max[r]);
    const VF a = Exp::Of(Set1(total.max[r] - max));
    const VF b = Exp::Of(Set1(chunk.max[r] - max));
    total.max[r] = max;
    total.sum[r] = total.sum[r] * a[0] + chunk.sum[r] * b[0];
    float* to = total.acc + r * stride;
    const float* from = chunk.acc + r * stride;
    for (int64_t i = 0; i < stride; i += kLanes) {
      Store(to + i, Load(to + i) * a + Load(from + i) * b);
    }
  }
}

// Zeros lose their sign and NaNs their payload: they depend on what shared a tile with the row.
LORAMUX_INLINE VF Canonical(VF v) {
  v = v + Zero();
  const VU nan = (VU)(v != v);
  return (VF)(((VU)v & ~nan) | (nan & 0x7fc00000u));
}

LORAMUX_INLINE void FinishRows(const AttentionCall& call, const AttendUnit& unit,
                               const RowState& s) {
  const PagedAttentionArgs& args = *call.args;
  const int d = args.head_size;
  const int32_t group = call.Group();
  const int64_t head_rows = call.HeadRows(unit.count);
  for (int32_t h = 0; h < unit.heads; ++h) {
    for (int32_t i = 0; i < unit.count * group; ++i) {
      const int64_t token = unit.first + i / group;
      const int64_t head = static_cast<int64_t>(unit.kv_head + h) * group + i % group;
      float* out = args.out + (token * args.num_heads + head) * d;
      const int64_t r = h * head_rows + i;
      const VF inverse = Set1(1.0f / s.sum[r]);
      for (int c = 0; c < d; c += kLanes) {
        StoreN(out + c, Canonical(Load(s.acc + r * call.stride + c) * inverse),
               MinOf(kLanes, d - c));
      }
    }
  }
}

// Runs attend(state, lowest, highest) over the unit's chunks; [lowest, highest) are the chunk's
// keys that some row sees. Then finishes the rows, or leaves the chunks' states to MergeUnit.
template <typename Exp, typename Attend>
LORAMUX_INLINE void AttendInChunks(const AttentionCall& call, const AttendUnit& unit, char* scratch,
                                   Attend&& attend) {
  const int64_t rows = unit.heads * call.HeadRows(unit.count);
  const int32_t lowest = FirstVisible(call.args->sliding_window, unit.position);
  const int32_t highest = unit.position + unit.count;
  float* memory = reinterpret_cast<float*>(scratch + call.state_offset);
  const RowState total = call.State(memory);
  const bool single = unit.partials == nullptr && unit.last_chunk - unit.first_chunk == 1;
  if (unit.partials == nullptr && !single) ClearState(total, rows, call.stride);
  for (int32_t chunk = unit.first_chunk; chunk < unit.last_chunk; ++chunk) {
    const RowState state = call.State(
        unit.partials != nullptr ? unit.partials + (chunk - unit.first_chunk) * call.slot_floats
                                 : memory + call.slot_floats);
    ClearState(state, rows, call.stride);
    const int32_t base = chunk * kChunkKeys;
    attend(state, MaxOf(lowest, base), MinOf(highest, base + kChunkKeys));
    if (single) FinishRows(call, unit, state);
    if (unit.partials == nullptr && !single) MergeState<Exp>(total, state, rows, call.stride);
  }
  if (unit.partials == nullptr && !single) FinishRows(call, unit, total);
}

template <typename Exp>
LORAMUX_INLINE void MergeUnit(const AttentionCall& call, const AttendUnit& unit, char* scratch) {
  const int64_t rows = unit.heads * call.HeadRows(unit.count);
  const RowState total = call.State(reinterpret_cast<float*>(scratch + call.state_offset));
  ClearState(total, rows, call.stride);
  for (int32_t chunk = unit.first_chunk; chunk < unit.last_chunk; ++chunk) {
    const RowState state =
        call.State(unit.partials + (chunk - unit.first_chunk) * call.slot_floats);
    MergeState<Exp>(total, state, rows, call.stride);
  }
  FinishRows(call, unit, total);
}

}  // namespace loramux::LORAMUX_SIMD_NS
