// What the AMX kernel keeps where. Keys are taken in tiles of kKeys absolute positions, inside them
// in groups of 16 (rows of a score tile) and of 32 (depth of a value product).
//
// Here and in amx_rows.h, amx_stage.h: bf16 caches; int8 ones are in amx_int8.h, amx_int8_stage.h.
// Scores are computed transposed, keys times queries, so that a softmax runs down a column of
// vectors whose lanes are 16 query rows: no sums across lanes, and a head's 16 tokens in the cache
// are an operand as they lie.
#pragma once

#include "cpu/attention/amx_tile.h"
#include "cpu/attention/state_impl.h"

namespace loramux::LORAMUX_SIMD_NS {

constexpr int kKeys = 128;
constexpr int kGroupKeys = 16;
constexpr int kGroups = kKeys / kGroupKeys;
constexpr int kDepthKeys = 32;
constexpr int kDepths = kKeys / kDepthKeys;
constexpr int kRowGroup = 16;  // query rows that share a tile
constexpr int32_t kAmxUnitRows = 128;
constexpr float kLog2E = 1.44269504088896341f;
static_assert(kChunkKeys % kKeys == 0, "a tile lies in one chunk");

// 2^x for x <= 0 to 3e-6 relative; 2^0 is exactly 1, x below -125 counts as -125, NaN stays NaN.
struct Exp2 {
  static inline __attribute__((always_inline)) VF Of(VF x) {
    x = Max(Set1(-125.0f), x);  // takes x when x is NaN
    const VF magic = Set1(12582912.0f);  // 1.5 * 2^23
    const VF n = (x + magic) - magic;
    const VF r = x - n;
    VF p = Set1(0.009582855826540159f);
    p = Fma(p, r, Set1(0.05590645856865204f));
    p = Fma(p, r, Set1(0.24024098776281258f));
    p = Fma(p, r, Set1(0.6931241893217936f));
    p = Fma(p, r, Set1(1.0f));
    return _mm512_scalef_ps(p, n);
  }
};

struct AmxSizes {
  int64_t depth_bytes;   // of a key, rounded up to whole tile rows
  int64_t depth_tiles;
  int64_t query_bytes;   // of a prepared query row
  int64_t value_tiles;   // of 16 columns
  int64_t rows;          // of a unit at most
  int64_t k_row_bytes;   // of a key in the cache
  bool keys_as_they_lie;  // keys of a group are an operand in the cache
};

inline AmxSizes AmxSizesOf(const PagedAttentionArgs& args) {
  AmxSizes s;
  s.k_row_bytes = 2 * static_cast<int64_t>(args.head_size);
  s.depth_tiles = CeilDiv(s.k_row_bytes, 64);
  s.depth_bytes = s.depth_tiles * 64;
  s.query_bytes = s.depth_bytes;
  s.value_tiles = CeilDiv(args.head_size, 16);
  const int64_t group = args.num_heads / args.num_kv_heads;
  s.rows = CeilDiv(MaxOf<int64_t>(group, kAmxUnitRows), kRowGroup) * kRowGroup;
  s.keys_as_they_lie =
      args.block_size % kGroupKeys == 0 && s.k_row_bytes == s.depth_bytes;
  return s;
}

// Hands out memory in whole cache lines.
struct ScratchLines {
  char* at;

  template <typename T>
  inline __attribute__((always_inline)) T* Take(int64_t bytes) {
    T* taken = reinterpret_cast<T*>(at);
    at += CeilDiv(bytes, 64) * 64;
    return taken;
  }
};

// One worker's scratch.
struct AmxScratch {
  char* queries;     // [row groups][depth_tiles] tiles: operand B
  char* keys;        // [kKeys, depth_bytes], where keys do not do as they lie
  uint16_t* values;  // [kDepths][value_tiles][16 pairs][16 columns][2]: operand B
  float* scores;     // [kKeys, 16]
  uint16_t* weights;    // [kDepths][16 rows][32 keys]: operand A
  int64_t bytes;
};

inline AmxScratch AmxScratchOf(const AmxSizes& sizes, char* memory) {
  AmxScratch s;
  ScratchLines lines{memory};
  s.queries = lines.Take<char>(sizes.rows / kRowGroup * sizes.depth_tiles * kTileBytes);
  s.keys = lines.Take<char>(sizes.keys_as_they_lie ? 0 : kKeys * sizes.depth_bytes);
  s.values = lines.Take<uint16_t>(kDepths * sizes.value_tiles * kTileBytes);
  s.scores = lines.Take<float>(kKeys * 64);
  s.weights = lines.Take<uint16_t>(kDepths * kTileBytes);
  s.bytes = lines.at - memory;
  return s;
}

// Keys of one tile. Present are [begin, end): those that some row of the unit sees.
struct KeyTile {
  int32_t base = 0;
  int begin = 0, end = 0;
  const char* k[kKeys];  // where keys lie; absent ones: not set
  const char* v[kKeys];
  const char* k_group[kGroups];  // first key of each group, as operand
  int64_t k_stride = 0;
};

// Fetches the keys and values of the tile that comes next, a few lines at a time between the
// computations of this one: all at once they would fill the processor's queue of misses, and what
// this tile still waits for would wait behind them.
struct Prefetcher {
  const char* run[2 * kGroups];    // a head's 16 tokens, keys or values
  const char* scale[2 * kGroups];  // int8
  int runs = 0, current = 0;
  int64_t offset = 0, run_bytes = 0;

  // A quarter of a run into the nearest cache. A tile has at most 4 * 2 * kGroups of them.
  inline __attribute__((always_inline)) void Slice() {
    if (current >= runs) return;
    const char* at = run[current] + offset;
    const int64_t bytes = run_bytes / 4;
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, 0, 3);
    offset += bytes;
    if (offset < run_bytes) return;
    __builtin_prefetch(scale[current], 0, 3);
    offset = 0;
    ++current;
  }

  inline __attribute__((always_inline)) void Lines(int n) {
    for (; n > 0 && current < runs; --n) {
      __builtin_prefetch(run[current] + offset, 0, 2);
      if (offset == 0) __builtin_prefetch(scale[current], 0, 2);
      offset += 64;
      if (offset >= run_bytes) {
        offset = 0;
        ++current;
      }
    }
  }
};

}  // namespace loramux::LORAMUX_SIMD_NS
