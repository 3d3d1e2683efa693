// Paged attention in vectors, every element type. Keys are visited in tiles of kTileKeys absolute
// positions; every sum of a query row runs over keys in ascending order, whatever else is in the
// register tile, so its bits do not depend on how tokens were cut into calls.
#pragma once

#include "cpu/attention/state_impl.h"
#include "cpu/attention/vector_tile.h"
#include "cpu/attention/write_impl.h"

namespace loramux::LORAMUX_SIMD_NS {

constexpr int32_t kVectorUnitRows = 64;
static_assert(kChunkKeys % kTileKeys == 0, "a tile lies in one chunk");

inline AttentionNeeds VectorNeeds(const PagedAttentionArgs& args) {
  AttentionNeeds needs;
  const int64_t group = args.num_heads / args.num_kv_heads;
  const int64_t rows = MaxOf<int64_t>(group, kVectorUnitRows);
  needs.unit_rows = kVectorUnitRows;
  needs.query_bytes = 4 * static_cast<int64_t>(args.head_size);
  needs.worker_bytes =
      4 * (static_cast<int64_t>(args.head_size) * kTileKeys + rows * kTileKeys + 2 * rows);
  return needs;
}

LORAMUX_INLINE TileScratch VectorScratch(const AttentionCall& call, char* memory) {
  const int64_t rows = call.StateRows();
  TileScratch s;
  s.keys_t = reinterpret_cast<float*>(memory);
  s.scores = s.keys_t + static_cast<int64_t>(call.args->head_size) * kTileKeys;
  s.low = reinterpret_cast<int32_t*>(s.scores + rows * kTileKeys);
  s.high = s.low + rows;
  s.stride = call.stride;
  return s;
}

inline void VectorWrite(const AttentionCall& call, int64_t first, int64_t last, char* scratch) {
  const PagedAttentionArgs& args = *call.args;
  const int d = args.head_size;
  const int32_t group = call.Group();
  WriteTokens(call, first, last, reinterpret_cast<float*>(scratch),
              [&](int64_t t, const float* cos_sin) {
                for (int32_t head = 0; head < args.num_kv_heads; ++head) {
                  float* rows = reinterpret_cast<float*>(call.QueryRows(head, t));
                  for (int32_t g = 0; g < group; ++g) {
                    const int64_t q_head = static_cast<int64_t>(head) * group + g;
                    PrepareHead(args, args.q + t * args.q_stride + q_head * d, args.q_norm,
                                cos_sin, args.softmax_scale, rows + static_cast<int64_t>(g) * d);
                  }
                }
              });
}

template <typename T>
constexpr bool kIsInt8 = false;
template <>
constexpr bool kIsInt8<int8_t> = true;
template <>
constexpr bool kIsInt8<Quad> = true;

// Keys [begin, end) of one tile and head.
template <typename T>
struct TileKeys {
  int begin = 0, end = 0;  // within the tile
  const T* k[kTileKeys];
  const T* v[kTileKeys];
  const float* k_scale[kTileKeys];
  const float* v_scale[kTileKeys];
};

// Where in a head token `inside` of the block begins, elements of T.
template <typename T>
LORAMUX_INLINE int64_t KeyOffset(int64_t inside, int64_t d) {
  return inside * d;
}
template <>
inline __attribute__((always_inline)) int64_t KeyOffset<Quad>(int64_t inside, int64_t d) {
  return inside / kKvGroupTokens * kKvGroupTokens * d / 4 + inside % kKvGroupTokens;
}
template <typename T>
LORAMUX_INLINE int64_t ValueOffset(int64_t inside, int64_t d) {
  return inside * d;
}
template <>
inline __attribute__((always_inline)) int64_t ValueOffset<Quad>(int64_t inside, int64_t d) {
  return inside / 4 * d;
}

template <typename T>
LORAMUX_INLINE void LocateKeys(const AttentionCall& call, const AttendUnit& unit, int32_t base,
                               int32_t lowest, int32_t highest, TileKeys<T>* keys) {
  const PagedAttentionArgs& args = *call.args;
  const int32_t* table = args.block_tables + static_cast<int64_t>(unit.sequence) * args.max_blocks;
  keys->begin = MaxOf(lowest - base, 0);
  keys->end = MinOf(highest - base, kTileKeys);
  int32_t block = (base + keys->begin) / args.block_size;
  int32_t inside = (base + keys->begin) % args.block_size;
  for (int j = keys->begin; j < keys->end; ++j) {
    const int64_t at = call.HeadOffset(table[block], unit.kv_head);
    const char* k = static_cast<const char*>(args.k_cache) + at;
    const char* v = static_cast<const char*>(args.v_cache) + at;
    keys->k[j] = reinterpret_cast<const T*>(k) + KeyOffset<T>(inside, args.head_size);
    keys->v[j] = reinterpret_cast<const T*>(v) + ValueOffset<T>(inside, args.head_size);
    keys->k_scale[j] = reinterpret_cast<const float*>(k + call.scale_offset) + inside;
    keys->v_scale[j] = reinterpret_cast<const float*>(v + call.scale_offset) + inside;
    if (++inside == args.block_size) {
      inside = 0;
      ++block;
    }
  }
}

// The tile that comes next is fetched while this one is computed: blocks lie scattered, where the
// processor's own prefetching does not follow.
template <typename T>
LORAMUX_INLINE void PrefetchKeys(const TileKeys<T>& keys, int d) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(T));
  for (int j = keys.begin; j < keys.end; ++j) {
    for (int i = 0; i < d; i += kLine) {
      __builtin_prefetch(keys.k[j] + i, 0, 2);
      __builtin_prefetch(keys.v[j] + i, 0, 2);
    }
  }
}

// A quarter of a quad of keys or values each.
LORAMUX_INLINE void PrefetchKeys(const TileKeys<Quad>& keys, int d) {
  for (int j = keys.begin; j < keys.end; ++j) {
    const int inside = j % kKvGroupTokens;
    const char* k = reinterpret_cast<const char*>(keys.k[j] - inside) + inside * d;
    const char* v = reinterpret_cast<const char*>(keys.v[j]) + inside % 4 * d;
    for (int i = 0; i < d; i += 64) {
      __builtin_prefetch(k + i, 0, 2);
      __builtin_prefetch(v + i, 0, 2);
    }
  }
}

// Keys [lowest, highest) of a unit's chunk into the state.
template <typename T>
LORAMUX_INLINE void AttendChunk(const AttentionCall& call, const AttendUnit& unit, int32_t lowest,
                                int32_t highest, TileScratch s) {
  const int d = call.args->head_size;
  const int32_t group = call.Group();
  const int32_t rows = unit.count * group;
  const int32_t window = call.args->sliding_window;
  const float* queries = reinterpret_cast<const float*>(call.QueryRows(unit.kv_head, unit.first));
  TileKeys<T> tiles[2];
  int32_t tile = lowest / kTileKeys;
  LocateKeys(call, unit, tile * kTileKeys, lowest, highest, &tiles[tile & 1]);
  for (; tile * kTileKeys < highest; ++tile) {
    const int32_t base = tile * kTileKeys;
    const TileKeys<T>& here = tiles[tile & 1];
    TileKeys<T>& next = tiles[(tile + 1) & 1];
    if (base + kTileKeys < highest) {
      LocateKeys(call, unit, base + kTileKeys, lowest, highest, &next);
      PrefetchKeys(next, d);
    }
    for (int32_t r = 0; r < rows; ++r) {
      const int32_t p = unit.position + r / group;
      s.low[r] = MaxOf(FirstVisible(window, p) - base, 0);
      s.high[r] = MinOf(p + 1 - base, kTileKeys);
    }
    constexpr bool scaled = kIsInt8<T>;
    TransposeKeys(here.k, scaled ? here.k_scale : nullptr, here.begin, here.end, d, s.keys_t);
    ScoreTile(queries, d, rows, s.keys_t, here.begin, here.end, s.scores);
    for (int32_t r = 0; r < rows; ++r) {
      if (s.low[r] >= s.high[r]) continue;
      SoftmaxRow(s, r, d);
      if (scaled) ScaleWeights(s, r, here.v_scale);
    }
    AccumulateTile(s, here.v, rows, d);
  }
}

struct NaturalExp {
  static inline __attribute__((always_inline)) VF Of(VF x) { return ExpNonPositive(x); }
};

template <typename T>
LORAMUX_INLINE void VectorAttendAs(const AttentionCall& call, const AttendUnit& unit,
                                   char* scratch) {
  const TileScratch tile = VectorScratch(call, scratch);
  AttendInChunks<NaturalExp>(
      call, unit, scratch, [&](const RowState& state, int32_t lowest, int32_t highest) {
        TileScratch s = tile;
        s.max = state.max;
        s.sum = state.sum;
        s.acc = state.acc;
        AttendChunk<T>(call, unit, lowest, highest, s);
      });
}

inline void VectorAttend(const AttentionCall& call, const AttendUnit& unit, char* scratch) {
  if (call.in_quads) {
    VectorAttendAs<Quad>(call, unit, scratch);
  } else if (call.args->kv_dtype == KvDtype::kI8) {
    VectorAttendAs<int8_t>(call, unit, scratch);
  } else if (call.args->kv_dtype == KvDtype::kBf16) {
    VectorAttendAs<uint16_t>(call, unit, scratch);
  } else {
    VectorAttendAs<float>(call, unit, scratch);
  }
}

inline void VectorMerge(const AttentionCall& call, const AttendUnit& unit, char* scratch) {
  MergeUnit<NaturalExp>(call, unit, scratch);
}

const AttentionTable kAttention = {VectorNeeds, VectorWrite,  nullptr,
                                   nullptr,     VectorAttend, VectorMerge};

}  // namespace loramux::LORAMUX_SIMD_NS
