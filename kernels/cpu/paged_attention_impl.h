// Paged attention for one instruction set, in two phases: normalise, rotate and store every token's
// key and value (queries go to the workspace), then attend. Keys are visited in tiles of kTileKeys
// absolute positions; every sum of a query row runs over keys in ascending order, whatever else is
// in the register tile, so its bits do not depend on how tokens were cut into calls.
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

// One unit of attention: query tokens [first, first + count) of a sequence, some kv heads.
struct AttendUnit {
  int32_t sequence;
  int32_t head_begin, head_end;  // kv heads
  int64_t first;                 // packed row of the first query token
  int32_t count;                 // query tokens
  int32_t position;              // of the first query token
};

// Where the tokens of one tile lie in the cache, as element offsets of their first head.
struct TileKeys {
  int begin = 0, end = 0;  // within the tile
  int64_t offset[kTileKeys];
};

LORAMUX_INLINE void LocateKeys(const PagedAttentionArgs& args, int32_t sequence, int32_t base,
                               int32_t lowest, int32_t highest, TileKeys* keys) {
  const int32_t* table = args.block_tables + static_cast<int64_t>(sequence) * args.max_blocks;
  const int64_t token_stride = static_cast<int64_t>(args.num_kv_heads) * args.head_size;
  keys->begin = MaxOf(lowest - base, 0);
  keys->end = MinOf(highest - base, kTileKeys);
  int32_t block = (base + keys->begin) / args.block_size;
  int32_t inside = (base + keys->begin) % args.block_size;
  for (int j = keys->begin; j < keys->end; ++j) {
    keys->offset[j] =
        (static_cast<int64_t>(table[block]) * args.block_size + inside) * token_stride;
    if (++inside == args.block_size) {
      inside = 0;
      ++block;
    }
  }
}

// The tile that comes next is fetched while this one is computed: one head's rows lie scattered,
// each at the start of another page or so, where the processor's own prefetching does not follow.
template <typename T>
LORAMUX_INLINE void PrefetchKeys(const T* k_cache, const T* v_cache, const TileKeys& keys,
                                 int64_t head_offset, int d) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(T));
  for (int j = keys.begin; j < keys.end; ++j) {
    const T* k = k_cache + keys.offset[j] + head_offset;
    const T* v = v_cache + keys.offset[j] + head_offset;
    for (int i = 0; i < d; i += kLine) {
      __builtin_prefetch(k + i, 0, 2);
      __builtin_prefetch(v + i, 0, 2);
    }
  }
}

inline void FinishRows(const PagedAttentionArgs& args, const AttendUnit& unit, int32_t kv_head,
                       const TileScratch& s) {
  const int d = args.head_size;
  const int32_t group = args.num_heads / args.num_kv_heads;
  for (int32_t r = 0; r < unit.count * group; ++r) {
    const int64_t token = unit.first + r / group;
    const int64_t head = static_cast<int64_t>(kv_head) * group + r % group;
    float* out = args.out + (token * args.num_heads + head) * d;
    const VF inverse = Set1(1.0f / s.sum[r]);
    for (int i = 0; i < d; i += kLanes) {
      StoreN(out + i, Load(s.acc + r * s.stride + i) * inverse, MinOf(kLanes, d - i));
    }
  }
}

// Tiles are the outer loop and heads the inner one, so that the cache is walked once from front to
// back; heads do not share any sum.
template <typename T>
void Attend(const PagedAttentionArgs& args, const AttentionLayout& layout, const AttendUnit& unit,
            float* scratch) {
  const int d = args.head_size;
  const int32_t group = args.num_heads / args.num_kv_heads;
  const int32_t rows = unit.count * group;  // of one kv head
  const int32_t window = args.sliding_window;
  const auto low_of = [window](int32_t p) {
    return window > 0 && p - window + 1 > 0 ? p - window + 1 : 0;
  };
  const int32_t lowest = low_of(unit.position);
  const int32_t highest = unit.position + unit.count;  // exclusive
  const T* k_cache = static_cast<const T*>(args.k_cache);
  const T* v_cache = static_cast<const T*>(args.v_cache);

  const TileScratch all = layout.Scratch(args, scratch);
  ClearRows(all, rows * (unit.head_end - unit.head_begin));
  TileKeys tiles[2];
  int32_t tile = lowest / kTileKeys;
  LocateKeys(args, unit.sequence, tile * kTileKeys, lowest, highest, &tiles[tile & 1]);
  for (; tile * kTileKeys < highest; ++tile) {
    const int32_t base = tile * kTileKeys;
    const TileKeys& here = tiles[tile & 1];
    TileKeys& next = tiles[(tile + 1) & 1];
    const bool more = base + kTileKeys < highest;
    if (more) LocateKeys(args, unit.sequence, base + kTileKeys, lowest, highest, &next);
    for (int32_t r = 0; r < rows; ++r) {
      const int32_t p = unit.position + r / group;
      all.low[r] = MaxOf(low_of(p) - base, 0);
      all.high[r] = MinOf(p + 1 - base, kTileKeys);
    }
    for (int32_t head = unit.head_begin; head < unit.head_end; ++head) {
      const int64_t head_offset = static_cast<int64_t>(head) * d;
      if (more) PrefetchKeys(k_cache, v_cache, next, head_offset, d);
      const T* keys[kTileKeys];
      const T* values[kTileKeys];
      for (int j = here.begin; j < here.end; ++j) {
        keys[j] = k_cache + here.offset[j] + head_offset;
        values[j] = v_cache + here.offset[j] + head_offset;
      }
      const TileScratch s = all.Rows((head - unit.head_begin) * rows);
      TransposeKeys(keys, here.begin, here.end, d, s.keys_t);
      ScoreTile(layout.QueryRows(args, head, unit.first), d, rows, s.keys_t, here.begin, here.end,
                s.scores);
      for (int32_t r = 0; r < rows; ++r) {
        if (s.low[r] < s.high[r]) SoftmaxRow(s, r, d);
      }
      AccumulateTile(s, values, rows, d);
    }
  }
  for (int32_t head = unit.head_begin; head < unit.head_end; ++head) {
    FinishRows(args, unit, head, all.Rows((head - unit.head_begin) * rows));
  }
}

// How sequences are cut into units. A unit has at most about kQueryRows rows: many tokens of one kv
// head (prefill), or one token of several kv heads (decode).
struct AttendPlan {
  const PagedAttentionArgs* args;
  int32_t max_heads;  // of one unit

  int32_t Length(int32_t sequence) const {
    return args->query_start[sequence + 1] - args->query_start[sequence];
  }
  int32_t Group() const { return args->num_heads / args->num_kv_heads; }
  int32_t TokensPerUnit(int32_t sequence) const {
    return MaxOf(1, MinOf(Length(sequence), kQueryRows / Group()));
  }
  int32_t HeadsPerUnit(int32_t sequence) const {
    const int32_t fitting = kQueryRows / (Group() * TokensPerUnit(sequence));
    return MaxOf(1, MinOf(fitting, max_heads));
  }
  int64_t TokenTiles(int32_t sequence) const {
    return CeilDiv(Length(sequence), TokensPerUnit(sequence));
  }
  int64_t HeadTiles(int32_t sequence) const {
    return CeilDiv(args->num_kv_heads, HeadsPerUnit(sequence));
  }
  int64_t Units() const {
    int64_t units = 0;
    for (int32_t s = 0; s < args->num_sequences; ++s) units += TokenTiles(s) * HeadTiles(s);
    return units;
  }
};

// As many heads per unit as leave every thread a few units.
inline AttendPlan PlanUnits(const PagedAttentionArgs& args, int64_t threads) {
  constexpr int64_t kUnitsPerThread = 4;
  AttendPlan plan{&args, args.num_kv_heads};
  while (threads > 1 && plan.max_heads > 1 && plan.Units() < kUnitsPerThread * threads) {
    plan.max_heads = (plan.max_heads + 1) / 2;
  }
  return plan;
}

// Walks units in order; one cursor per worker. Within a sequence the last (longest) token tiles
// come first, so that the end of the call is not one long unit.
struct AttendCursor {
  AttendPlan plan;
  int32_t sequence = 0;
  int64_t first_unit = 0;

  AttendUnit Seek(int64_t unit) {
    int64_t units = plan.TokenTiles(sequence) * plan.HeadTiles(sequence);
    while (unit >= first_unit + units) {
      first_unit += units;
      ++sequence;
      units = plan.TokenTiles(sequence) * plan.HeadTiles(sequence);
    }
    const PagedAttentionArgs& args = *plan.args;
    const int64_t local = unit - first_unit;
    const int64_t head_tiles = plan.HeadTiles(sequence);
    const int32_t heads = plan.HeadsPerUnit(sequence);
    const int32_t tokens = plan.TokensPerUnit(sequence);
    const int32_t length = plan.Length(sequence);
    const int32_t offset =
        static_cast<int32_t>(plan.TokenTiles(sequence) - 1 - local / head_tiles) * tokens;
    const int32_t head = static_cast<int32_t>(local % head_tiles) * heads;
    AttendUnit result;
    result.sequence = sequence;
    result.head_begin = head;
    result.head_end = MinOf(head + heads, args.num_kv_heads);
    result.first = args.query_start[sequence] + offset;
    result.count = MinOf(tokens, length - offset);
    result.position = args.context_lens[sequence] - length + offset;
    return result;
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

  int64_t cost = 0;
  for (int32_t s = 0; s < args.num_sequences; ++s) {
    const int64_t length = args.query_start[s + 1] - args.query_start[s];
    cost += length * args.context_lens[s] * args.num_heads * args.head_size;
  }
  const AttendPlan plan = PlanUnits(args, threads);
  RunUnits(parallel, plan.Units(), MinOf(threads, WorkersFor(parallel, cost)),
           [&](int64_t worker, auto next) {
             float* scratch = layout.WorkerScratch(args, worker);
             AttendCursor cursor{plan};
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
