// Paged attention over bf16 and int8 caches in AMX tiles; compiled with AVX-512 and AVX512-BF16.
// Every key tile lies at an absolute position and a row's operations are the same whatever rows
// share its tile, so its bits do not depend on them.
#define LORAMUX_SIMD_AMX
#include "cpu/attention/amx_int8_stage.h"
#include "cpu/attention/amx_rows.h"
#include "cpu/attention/amx_stage.h"

namespace loramux::LORAMUX_SIMD_NS {
namespace {

AttentionNeeds AmxNeeds(const PagedAttentionArgs& args) {
  AttentionNeeds needs;
  needs.unit_rows = kAmxUnitRows;
  needs.several_heads = true;
  if (args.kv_dtype == KvDtype::kI8) {
    const Int8Sizes sizes = Int8SizesOf(args);
    needs.row_multiple = kInt8Rows;
    needs.query_bytes = sizes.query_bytes;
    needs.worker_bytes = Int8ScratchOf(sizes, nullptr).bytes;
  } else {
    const AmxSizes sizes = AmxSizesOf(args);
    needs.row_multiple = kRowGroup;
    needs.query_bytes = sizes.query_bytes;
    needs.worker_bytes = AmxScratchOf(sizes, nullptr).bytes;
  }
  // Writing tokens takes two heads.
  needs.worker_bytes = MaxOf<int64_t>(needs.worker_bytes, 8 * CeilDiv(args.head_size, 16) * 16);
  return needs;
}

void AmxWrite(const AttentionCall& call, int64_t first, int64_t last, char* scratch) {
  const PagedAttentionArgs& args = *call.args;
  const AmxSizes sizes = AmxSizesOf(args);
  const Int8Sizes int8_sizes = Int8SizesOf(args);
  const int d = args.head_size;
  const int32_t group = call.Group();
  float* head = reinterpret_cast<float*>(scratch);
  WriteTokens(call, first, last, head, [&](int64_t t, const float* cos_sin) {
    for (int32_t h = 0; h < args.num_heads; ++h) {
      // Weights are powers of two here.
      PrepareHead(args, args.q + t * args.q_stride + static_cast<int64_t>(h) * d, args.q_norm,
                  cos_sin, args.softmax_scale * kLog2E, head);
      char* row = call.QueryRows(h / group, t) + (h % group) * call.needs.query_bytes;
      if (args.kv_dtype == KvDtype::kI8) {
        StoreInt8Query(int8_sizes, head, d, row);
      } else {
        StoreQuery(sizes, head, d, row);
      }
    }
  });
}

// Keys [lowest, highest) of a unit: those that some row of it sees.
struct KeyRange {
  int32_t lowest, highest;
};

KeyRange KeysOf(const AttentionCall& call, const AttendUnit& unit) {
  return {MaxOf(FirstVisible(call.args->sliding_window, unit.position),
                unit.first_chunk * kChunkKeys),
          MinOf(unit.position + unit.count, unit.last_chunk * kChunkKeys)};
}

// The tile that begins at `base`, as far as the unit sees it. Blocks that do not hold whole groups
// are left to the processor's own prefetching.
void StartPrefetch(const AttentionCall& call, const AttendUnit& unit, int32_t kv_head, int32_t base,
                   const KeyRange& keys, Prefetcher* prefetcher) {
  const PagedAttentionArgs& args = *call.args;
  prefetcher->runs = prefetcher->current = 0;
  prefetcher->offset = 0;
  const bool scaled = args.kv_dtype == KvDtype::kI8;
  const int64_t row_bytes = args.head_size * call.element_bytes;
  prefetcher->run_bytes = kGroupKeys * row_bytes;
  if (args.block_size % kGroupKeys != 0) return;
  const int32_t* table = args.block_tables + static_cast<int64_t>(unit.sequence) * args.max_blocks;
  const int32_t end = MinOf(keys.highest, base + kKeys);
  int32_t p = MaxOf(base, keys.lowest / kGroupKeys * kGroupKeys);
  int32_t block = p / args.block_size;
  int32_t inside = p % args.block_size;
  for (; p < end; p += kGroupKeys) {
    const int64_t at = call.HeadOffset(table[block], kv_head);
    const void* const caches[2] = {args.k_cache, args.v_cache};
    for (const void* cache : caches) {
      const char* head = static_cast<const char*>(cache) + at;
      prefetcher->run[prefetcher->runs] = head + inside * row_bytes;
      prefetcher->scale[prefetcher->runs] =
          scaled ? head + call.scale_offset + 4 * inside : prefetcher->run[prefetcher->runs];
      ++prefetcher->runs;
    }
    inside += kGroupKeys;
    if (inside == args.block_size) {
      inside = 0;
      ++block;
    }
  }
}

void AttendBf16Tile(const AttentionCall& call, const AmxSizes& sizes, const AttendUnit& unit,
                    const KeyTile& tile, bool some_not_finite, const char* queries,
                    const AmxScratch& s, const RowState& state, Prefetcher* prefetcher) {
  const int32_t window = call.args->sliding_window;
  const int32_t group = call.Group();
  const int32_t rows = unit.count * group;
  const int d = call.args->head_size;
  const int64_t stride = call.stride;
  for (int32_t r = 0; r < rows; r += kRowGroup) {
    // Lanes past the last row repeat its visibility; nothing of theirs is kept.
    int32_t low[kRowGroup];
    int32_t high[kRowGroup];
    for (int i = 0; i < kRowGroup; ++i) {
      const int32_t p = unit.position + MinOf(r + i, rows - 1) / group;
      low[i] = MaxOf(FirstVisible(window, p) - tile.base, 0);
      high[i] = MinOf(p + 1 - tile.base, kKeys);
    }
    // Rows are in ascending order of positions.
    if (high[kRowGroup - 1] <= low[0]) continue;
    Visible visible;
    visible.low = _mm512_loadu_si512(low);
    visible.high = _mm512_loadu_si512(high);
    const bool masked = low[kRowGroup - 1] > 0 || high[0] < kKeys;
    const int first_depth = low[0] / kDepthKeys;
    const int last_depth = (high[kRowGroup - 1] + kDepthKeys - 1) / kDepthKeys;
    const int first = first_depth * kDepthKeys;
    const int last = last_depth * kDepthKeys;
    ScoreGroups(tile, low[0] / kGroupKeys,
                       (high[kRowGroup - 1] + kGroupKeys - 1) / kGroupKeys, sizes,
                       queries + r / kRowGroup * sizes.depth_tiles * kTileBytes, s,
                       prefetcher);
    float* acc = state.acc + r * stride;
    if (masked) {
      SoftmaxRows<true>(s, first, last, visible, state.max + r, state.sum + r, acc, stride,
                        prefetcher);
    } else {
      SoftmaxRows<false>(s, first, last, visible, state.max + r, state.sum + r, acc, stride,
                         prefetcher);
    }
    AddValues(s, sizes, first_depth, last_depth, acc, stride);
    if (some_not_finite) {
      for (int i = 0; i < MinOf(kRowGroup, rows - r); ++i) {
        AddNonFinite(tile, low[i], high[i], d, acc + i * stride);
      }
    }
  }
}

// tile(base, head, next base, next head) for the tiles of a chunk: all heads of a tile in turn.
template <typename Tile>
LORAMUX_INLINE void ForTiles(const AttendUnit& unit, int32_t lowest, int32_t highest,
                             Tile&& tile) {
  for (int32_t base = lowest / kKeys * kKeys; base < highest; base += kKeys) {
    for (int32_t h = 0; h < unit.heads; ++h) {
      const bool last = h + 1 == unit.heads;
      tile(base, h, last ? base + kKeys : base, last ? 0 : h + 1);
    }
  }
}

void AttendBf16(const AttentionCall& call, const AttendUnit& unit, char* scratch) {
  const AmxSizes sizes = AmxSizesOf(*call.args);
  const AmxScratch s = AmxScratchOf(sizes, scratch);
  const int d = call.args->head_size;
  const KeyRange keys = KeysOf(call, unit);
  Prefetcher prefetcher;
  StartPrefetch(call, unit, unit.kv_head, keys.lowest / kKeys * kKeys, keys, &prefetcher);
  prefetcher.Lines(INT32_MAX);
  PackQueries(call, sizes, unit, s);
  const int64_t head_rows = call.HeadRows(unit.count);
  KeyTile tile;
  AttendInChunks<Exp2>(
      call, unit, scratch, [&](const RowState& state, int32_t lowest, int32_t highest) {
        ForTiles(unit, lowest, highest, [&](int32_t base, int32_t h, int32_t next_base,
                                            int32_t next_h) {
          LocateTile(call, sizes, unit, unit.kv_head + h, base, lowest, highest, &tile);
          StartPrefetch(call, unit, unit.kv_head + next_h, next_base, keys, &prefetcher);
          if (!sizes.keys_as_they_lie) StageKeys(sizes, s, &tile);
          bool hidden = StageValues(sizes, s, tile, d, &prefetcher);
          // One token's rows all see what is there, and what is not finite is theirs.
          hidden = hidden && unit.count > 1;
          if (hidden) HideNonFinite(sizes, s, tile);
          const int64_t r = h * head_rows;
          AttendBf16Tile(call, sizes, unit, tile, hidden,
                         s.queries + r / kRowGroup * sizes.depth_tiles * kTileBytes, s,
                         state.From(r, call.stride), &prefetcher);
          prefetcher.Lines(INT32_MAX);
        });
      });
}

// Values whose weights are ready. They wait for the scores that come next: a tile load of what was
// just stored would wait for the stores, and the scores' own stores drain meanwhile.
struct Int8Pending {
  bool any = false;
  int first_depth = 0, last_depth = 0;
  float* acc = nullptr;
  Int8Update update;
};

void AddPending(const AttentionCall& call, const Int8Sizes& sizes, const Int8Scratch& s,
                Int8Pending* pending, Prefetcher* prefetcher) {
  if (!pending->any) return;
  pending->any = false;
  Int8Values(sizes, s, pending->first_depth, pending->last_depth, pending->update, pending->acc,
             call.stride, prefetcher);
}

// stage_values() stages the tile's values, once nothing pending needs those before.
template <typename StageValues>
LORAMUX_INLINE void AttendInt8Tile(const AttentionCall& call, const Int8Sizes& sizes,
                                   const AttendUnit& unit, const KeyTile& tile,
                                   const char* queries, const float* query_scale,
                                   const Int8Scratch& s, const RowState& state,
                                   Int8Pending* pending, Prefetcher* prefetcher,
                                   StageValues&& stage_values) {
  bool staged = false;
  const int32_t window = call.args->sliding_window;
  const int32_t group = call.Group();
  const int32_t rows = unit.count * group;
  for (int32_t r = 0; r < rows; r += kInt8Rows) {
    // Lanes past the last row repeat its visibility; nothing of theirs is kept.
    KeyBits sees[kInt8Rows];
    int lowest = kKeys, highest = 0, least = kKeys, most_low = 0;
    for (int i = 0; i < kInt8Rows; ++i) {
      const int32_t p = unit.position + MinOf(r + i, rows - 1) / group;
      const int low = MaxOf(FirstVisible(window, p) - tile.base, 0);
      const int high = MinOf(p + 1 - tile.base, kKeys);
      sees[i] = KeyBits::Range(low, high);
      lowest = MinOf(lowest, low);
      most_low = MaxOf(most_low, low);
      highest = MaxOf(highest, high);
      least = MinOf(least, high);
    }
    if (highest <= lowest) continue;
    const bool masked = most_low > 0 || least < kKeys;
    const int first_depth = lowest / kInt8DepthKeys;
    const int last_depth = (highest + kInt8DepthKeys - 1) / kInt8DepthKeys;
    const int first = 4 * first_depth;
    const int last = 4 * last_depth;
    Int8Scores(sizes, s, tile, queries + r / kInt8Rows * sizes.depth_tiles * kTileBytes, first,
               last);
    AddPending(call, sizes, s, pending, prefetcher);
    if (!staged) stage_values();
    staged = true;
    if (masked) {
      Int8Softmax<true>(s, first, last, sees, query_scale + r, state.max + r, state.sum + r,
                        &pending->update, prefetcher);
    } else {
      Int8Softmax<false>(s, first, last, sees, query_scale + r, state.max + r, state.sum + r,
                         &pending->update, prefetcher);
    }
    pending->any = true;
    pending->first_depth = first_depth;
    pending->last_depth = last_depth;
    pending->acc = state.acc + r * call.stride;
  }
}

void AttendInt8(const AttentionCall& call, const AttendUnit& unit, char* scratch) {
  const Int8Sizes sizes = Int8SizesOf(*call.args);
  const Int8Scratch s = Int8ScratchOf(sizes, scratch);
  const int d = call.args->head_size;
  const KeyRange keys = KeysOf(call, unit);
  Prefetcher prefetcher;
  PackInt8Queries(call, sizes, unit, s);
  const int64_t head_rows = call.HeadRows(unit.count);
  KeyTile tile;
  Int8Pending pending;
  AttendInChunks<Exp2>(
      call, unit, scratch, [&](const RowState& state, int32_t lowest, int32_t highest) {
        ForTiles(unit, lowest, highest, [&](int32_t base, int32_t h, int32_t next_base,
                                            int32_t next_h) {
          LocateInt8(call, sizes, unit, unit.kv_head + h, base, lowest, highest, s, &tile);
          StartPrefetch(call, unit, unit.kv_head + next_h, next_base, keys, &prefetcher);
          if (!call.in_quads) {
            StageKeyRows(sizes, s, d, tile);
          } else if (!sizes.keys_as_they_lie) {
            StageKeyQuads(sizes, s, d, tile);
          }
          const int64_t r = h * head_rows;
          AttendInt8Tile(call, sizes, unit, tile,
                         s.queries + r / kInt8Rows * sizes.depth_tiles * kTileBytes,
                         s.query_scale + r, s, state.From(r, call.stride), &pending, &prefetcher,
                         [&] {
                           if (call.in_quads) {
                             StageValueQuads(sizes, s, d, tile, &prefetcher);
                           } else {
                             StageValueRows(sizes, s, d, tile);
                           }
                         });
        });
        AddPending(call, sizes, s, &pending, &prefetcher);
      });
}

void AmxAttend(const AttentionCall& call, const AttendUnit& unit, char* scratch) {
  if (call.args->kv_dtype == KvDtype::kI8) {
    AttendInt8(call, unit, scratch);
  } else {
    AttendBf16(call, unit, scratch);
  }
}

void AmxMerge(const AttentionCall& call, const AttendUnit& unit, char* scratch) {
  MergeUnit<Exp2>(call, unit, scratch);
}

}  // namespace

extern const AttentionTable kAttention = {AmxNeeds,     AmxWrite,  ConfigureTiles,
                                          ReleaseTiles, AmxAttend, AmxMerge};

}  // namespace loramux::LORAMUX_SIMD_NS
