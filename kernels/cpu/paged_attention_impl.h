// Paged attention for one instruction set, in two phases: normalise, rotate and store every token's
// key and value (queries go to the workspace), then attend. Keys are visited in tiles of kTileKeys
// absolute positions; every sum of a query row runs over keys in ascending order, whatever else is in
// the register tile, so its bits do not depend on how tokens were cut into calls.
#pragma once

#include "cpu/attention_layout.h"
#include "cpu/attention_tile.h"
#include "cpu/simd.h"
#include "cpu/work_queue.h"
#include "loramux/paged_attention.h"

namespace loramux::LORAMUX_SIMD_NS {

// RMS norm (weight may be null) and rotary embedding of one head: src -> dst [head_size], scaled.
LORAMUX_INLINE void PrepareHead(const PagedAttentionArgs& args, const float* src,
                                const float* norm_weight, const float* cos_sin, float scale,
                                float* dst) {
  const int d = args.head_size;
  VF inverse = Set1(1.0f);
  if (norm_weight != nullptr) {
    VF squares = Zero();
    int i = 0;
    for (; i + kLanes <= d; i += kLanes) squares = Fma(Load(src + i), Load(src + i), squares);
    if (i < d) {
      const VF v = LoadN(src + i, d - i);
      squares = Fma(v, v, squares);
    }
    const float mean = ReduceAdd(squares) / static_cast<float>(d);
    inverse = Set1(1.0f / __builtin_sqrtf(mean + args.norm_eps));
  }
  const auto value = [&](int i, int n) __attribute__((always_inline)) {
    VF v = LoadN(src + i, n);
    if (norm_weight != nullptr) v = LoadN(norm_weight + i, n) * (v * inverse);
    return v;
  };
  const VF s = Set1(scale);
  const int half = args.rotary_dim / 2;
  const float* cos = cos_sin;
  const float* sin = cos_sin + half;
  for (int i = 0; i < half; i += kLanes) {
    const int n = MinOf(kLanes, half - i);
    const VF a = value(i, n);
    const VF b = value(half + i, n);
    const VF c = LoadN(cos + i, n);
    const VF sn = LoadN(sin + i, n);
    StoreN(dst + i, (a * c - b * sn) * s, n);
    StoreN(dst + half + i, (b * c + a * sn) * s, n);
  }
  for (int i = args.rotary_dim; i < d; i += kLanes) {
    const int n = MinOf(kLanes, d - i);
    StoreN(dst + i, value(i, n) * s, n);
  }
}

template <typename T>
LORAMUX_INLINE void StoreHead(const float* src, int d, T* dst) {
  for (int i = 0; i < d; i += kLanes) {
    const int n = MinOf(kLanes, d - i);
    StoreKvN(dst + i, LoadN(src + i, n), n);
  }
}

// Key and value of token t into the cache, its rotated and scaled queries into the workspace.
// `scratch` holds one head.
template <typename T>
void WriteToken(const PagedAttentionArgs& args, const AttentionLayout& layout, int64_t t,
                float* scratch) {
  const int d = args.head_size;
  const int32_t group = args.num_heads / args.num_kv_heads;
  const float* cos_sin =
      args.rotary_dim > 0 ? args.cos_sin + t * static_cast<int64_t>(args.rotary_dim) : nullptr;
  const int64_t slot = static_cast<int64_t>(args.slot_mapping[t]) * args.num_kv_heads * d;
  for (int32_t head = 0; head < args.num_kv_heads; ++head) {
    const int64_t at = slot + static_cast<int64_t>(head) * d;
    PrepareHead(args, args.k + t * args.k_stride + static_cast<int64_t>(head) * d, args.k_norm,
                cos_sin, 1.0f, scratch);
    StoreHead(scratch, d, static_cast<T*>(args.k_cache) + at);
    StoreHead(args.v + t * args.v_stride + static_cast<int64_t>(head) * d, d,
              static_cast<T*>(args.v_cache) + at);
    float* rows = layout.QueryRows(args, head, t);
    for (int32_t g = 0; g < group; ++g) {
      const int64_t q_head = static_cast<int64_t>(head) * group + g;
      PrepareHead(args, args.q + t * args.q_stride + q_head * d, args.q_norm, cos_sin,
                  args.softmax_scale, rows + static_cast<int64_t>(g) * d);
    }
  }
}

// One unit of attention: the query tokens [first, first + count) of a sequence, one kv head.
struct AttendUnit {
  int32_t sequence;
  int32_t kv_head;
  int64_t first;     // packed row of the first query token
  int32_t count;     // query tokens
  int32_t position;  // of the first query token
};

template <typename T>
void Attend(const PagedAttentionArgs& args, const AttentionLayout& layout, const AttendUnit& unit,
            float* scratch) {
  const int d = args.head_size;
  const int32_t group = args.num_heads / args.num_kv_heads;
  const int32_t rows = unit.count * group;
  const int32_t window = args.sliding_window;
  const auto low_of = [window](int32_t p) {
    return window > 0 && p - window + 1 > 0 ? p - window + 1 : 0;
  };
  const int32_t lowest = low_of(unit.position);
  const int32_t highest = unit.position + unit.count;  // exclusive
  const float* q = layout.QueryRows(args, unit.kv_head, unit.first);
  const int32_t* table = args.block_tables + static_cast<int64_t>(unit.sequence) * args.max_blocks;
  const int64_t token_stride = static_cast<int64_t>(args.num_kv_heads) * d;
  const int64_t head_offset = static_cast<int64_t>(unit.kv_head) * d;

  TileScratch s = layout.Scratch(args, scratch);
  ClearRows(s, rows);
  const T* keys[kTileKeys];
  const T* values[kTileKeys];
  for (int32_t tile = lowest / kTileKeys; tile * kTileKeys < highest; ++tile) {
    const int32_t base = tile * kTileKeys;
    const int begin = MaxOf(lowest - base, 0);
    const int end = MinOf(highest - base, kTileKeys);
    for (int j = begin; j < end; ++j) {
      const int32_t p = base + j;
      const int64_t slot = static_cast<int64_t>(table[p / args.block_size]) * args.block_size +
                           p % args.block_size;
      keys[j] = static_cast<const T*>(args.k_cache) + slot * token_stride + head_offset;
      values[j] = static_cast<const T*>(args.v_cache) + slot * token_stride + head_offset;
    }
    for (int32_t r = 0; r < rows; ++r) {
      const int32_t p = unit.position + r / group;
      s.low[r] = MaxOf(low_of(p) - base, 0);
      s.high[r] = MinOf(p + 1 - base, kTileKeys);
    }
    TransposeKeys(keys, begin, end, d, s.keys_t);
    ScoreTile(q, d, rows, s.keys_t, begin, end, s.scores);
    for (int32_t r = 0; r < rows; ++r) {
      if (s.low[r] < s.high[r]) SoftmaxRow(s, r, d);
    }
    AccumulateTile(s, values, rows, d);
  }
  for (int32_t r = 0; r < rows; ++r) {
    const int64_t token = unit.first + r / group;
    const int64_t head = static_cast<int64_t>(unit.kv_head) * group + r % group;
    float* out = args.out + (token * args.num_heads + head) * d;
    const VF inverse = Set1(1.0f / s.sum[r]);
    for (int i = 0; i < d; i += kLanes) {
      StoreN(out + i, Load(s.acc + static_cast<int64_t>(r) * s.stride + i) * inverse,
             MinOf(kLanes, d - i));
    }
  }
}

// Walks units in order; one cursor per worker. Within a sequence the last (longest) tiles come
// first, so that the end of the call is not one long unit.
struct AttendCursor {
  const PagedAttentionArgs* args;
  int32_t tokens_per_unit;
  int32_t sequence = 0;
  int64_t first_unit = 0;

  int64_t Tiles() const {
    const int64_t length = args->query_start[sequence + 1] - args->query_start[sequence];
    return CeilDiv(length, tokens_per_unit);
  }
  AttendUnit Seek(int64_t unit) {
    while (unit >= first_unit + Tiles() * args->num_kv_heads) {
      first_unit += Tiles() * args->num_kv_heads;
      ++sequence;
    }
    const int64_t local = unit - first_unit;
    const int64_t tile = Tiles() - 1 - local / args->num_kv_heads;
    const int32_t start = args->query_start[sequence];
    const int32_t length = args->query_start[sequence + 1] - start;
    const int32_t offset = static_cast<int32_t>(tile * tokens_per_unit);
    return {sequence, static_cast<int32_t>(local % args->num_kv_heads), int64_t{start} + offset,
            MinOf(tokens_per_unit, length - offset), args->context_lens[sequence] - length + offset};
  }
};

template <typename T>
void RunPagedAttention(const PagedAttentionArgs& args, const Parallel& parallel) {
  const AttentionLayout layout(args);
  const int64_t threads = MaxOf(1, parallel.threads);
  constexpr int64_t kTokensPerWrite = 8;
  const int64_t row_floats =
      static_cast<int64_t>(args.num_heads + 2 * args.num_kv_heads) * args.head_size;
  RunUnits(parallel, CeilDiv(args.num_tokens, kTokensPerWrite),
           MinOf(threads, WorkersFor(parallel, 4 * args.num_tokens * row_floats)),
           [&](int64_t worker, auto next) {
             float* scratch = layout.WorkerScratch(args, worker);
             for (int64_t unit = next(); unit >= 0; unit = next()) {
               const int64_t end = MinOf(args.num_tokens, (unit + 1) * kTokensPerWrite);
               for (int64_t t = unit * kTokensPerWrite; t < end; ++t) {
                 WriteToken<T>(args, layout, t, scratch);
               }
             }
           });

  const int32_t group = args.num_heads / args.num_kv_heads;
  const int32_t tokens_per_unit = MaxOf(1, kQueryRows / group);
  int64_t units = 0;
  int64_t cost = 0;
  for (int32_t s = 0; s < args.num_sequences; ++s) {
    const int64_t length = args.query_start[s + 1] - args.query_start[s];
    units += CeilDiv(length, tokens_per_unit) * args.num_kv_heads;
    cost += length * args.context_lens[s] * args.num_heads * args.head_size;
  }
  RunUnits(parallel, units, MinOf(threads, WorkersFor(parallel, cost)),
           [&](int64_t worker, auto next) {
             float* scratch = layout.WorkerScratch(args, worker);
             AttendCursor cursor{&args, tokens_per_unit};
             for (int64_t unit = next(); unit >= 0; unit = next()) {
               Attend<T>(args, layout, cursor.Seek(unit), scratch);
             }
           });
}

inline void PagedAttention(const PagedAttentionArgs& args, const Parallel& parallel) {
  if (args.kv_dtype == KvDtype::kBf16) {
    RunPagedAttention<uint16_t>(args, parallel);
  } else {
    RunPagedAttention<float>(args, parallel);
  }
}

}  // namespace loramux::LORAMUX_SIMD_NS
