// From queries, keys and values to tile operands.
#pragma once

#include "cpu/attention/amx_layout.h"
#include "cpu/attention/write_impl.h"

namespace loramux::LORAMUX_SIMD_NS {

// A prepared query row, zeros up to whole tile rows.
inline void StoreQuery(const AmxSizes& sizes, const float* head, int d, char* row) {
  uint16_t* to = reinterpret_cast<uint16_t*>(row);
  for (int i = 0; i < sizes.depth_bytes / 2; i += kLanes) {
    const int n = MaxOf(0, MinOf(kLanes, d - i));
    const VU16 half = RoundToBf16(LoadN(head + i, n));
    __builtin_memcpy(to + i, &half, sizeof(half));
  }
}

// 16 rows of 16 dwords, transposed, to one tile. Rows from `count` on are zero.
LORAMUX_INLINE void PackTile(const char* rows, int64_t row_bytes, int64_t count, char* tile) {
  VF v[kLanes];
  for (int r = 0; r < kLanes; ++r) {
    v[r] = r < count ? Load(reinterpret_cast<const float*>(rows + r * row_bytes)) : Zero();
  }
  Transpose(v);
  for (int r = 0; r < kLanes; ++r) Store(reinterpret_cast<float*>(tile + 64 * r), v[r]);
}

inline void PackQueries(const AttentionCall& call, const AmxSizes& sizes, const AttendUnit& unit,
                        const AmxScratch& s) {
  const int64_t rows = static_cast<int64_t>(unit.count) * call.Group();
  char* tile = s.queries;
  for (int32_t h = 0; h < unit.heads; ++h) {
    const char* from = call.QueryRows(unit.kv_head + h, unit.first);
    for (int64_t r = 0; r < rows; r += kRowGroup) {
      for (int64_t c = 0; c < sizes.depth_tiles; ++c) {
        PackTile(from + r * sizes.query_bytes + c * 64, sizes.query_bytes, rows - r, tile);
        tile += kTileBytes;
      }
    }
  }
}

// Finds the present keys of a tile.
inline void LocateTile(const AttentionCall& call, const AmxSizes& sizes, const AttendUnit& unit,
                       int32_t kv_head, int32_t base, int32_t lowest, int32_t highest,
                       KeyTile* tile) {
  const PagedAttentionArgs& args = *call.args;
  const int32_t* table = args.block_tables + static_cast<int64_t>(unit.sequence) * args.max_blocks;
  tile->base = base;
  tile->begin = MaxOf(lowest - base, 0);
  tile->end = MinOf(highest - base, kKeys);
  int32_t block = (base + tile->begin) / args.block_size;
  int32_t inside = (base + tile->begin) % args.block_size;
  int j = tile->begin;
  while (j < tile->end) {
    const int64_t at = call.HeadOffset(table[block], kv_head);
    const char* k = static_cast<const char*>(args.k_cache) + at;
    const char* v = static_cast<const char*>(args.v_cache) + at;
    const int n = MinOf(tile->end - j, args.block_size - inside);
    if (sizes.keys_as_they_lie) {
      // From the group's first key on, present or not: a block holds whole groups.
      for (int g = j / kGroupKeys; g * kGroupKeys < j + n; ++g) {
        tile->k_group[g] = k + (inside + g * kGroupKeys - j) * sizes.k_row_bytes;
      }
    }
    for (int i = 0; i < n; ++i) {
      tile->k[j + i] = k + (inside + i) * sizes.k_row_bytes;
      tile->v[j + i] = v + (inside + i) * sizes.k_row_bytes;
    }
    j += n;
    inside = 0;
    ++block;
  }
  tile->k_stride = sizes.k_row_bytes;
}

// Copies keys into rows of whole tile widths; absent ones of a group that has present ones: zeros.
inline void StageKeys(const AmxSizes& sizes, const AmxScratch& s, KeyTile* tile) {
  const int first = tile->begin / kGroupKeys * kGroupKeys;
  for (int j = first; j < tile->end || j % kGroupKeys != 0; ++j) {
    char* to = s.keys + j * sizes.depth_bytes;
    const bool present = j >= tile->begin && j < tile->end;
    for (int64_t i = 0; i < sizes.depth_bytes; i += 64) {
      const int64_t n = present ? MaxOf<int64_t>(0, MinOf<int64_t>(64, sizes.k_row_bytes - i)) : 0;
      const __mmask64 keep = n == 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1;
      // tile->k is not set for absent keys; no lane of theirs is read.
      const char* from = n > 0 ? tile->k[j] + i : to + i;
      _mm512_store_si512(to + i, _mm512_maskz_loadu_epi8(keep, from));
    }
    if (j % kGroupKeys == 0) tile->k_group[j / kGroupKeys] = to;
  }
  tile->k_stride = sizes.depth_bytes;
}

// 32 elements of a value; those at and past n are zero.
LORAMUX_INLINE __m512i LoadValues(const char* p, int n) {
  const __mmask32 keep = n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1;
  return _mm512_maskz_loadu_epi16(keep, p);
}

// Values of present keys, keys in pairs; absent ones are zero. Says whether a value that is not
// finite was among them.
LORAMUX_INLINE bool StageValues(const AmxSizes& sizes, const AmxScratch& s, const KeyTile& tile,
                                int d, Prefetcher* prefetcher) {
  const __m512i first_half =
      _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                       37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i second_half = _mm512_add_epi16(first_half, _mm512_set1_epi16(16));
  const __m512i exponent = _mm512_set1_epi16(0x7f80);
  __mmask32 not_finite = 0;
  for (int depth = tile.begin / kDepthKeys; depth * kDepthKeys < tile.end; ++depth) {
    uint16_t* tiles = s.values + depth * sizes.value_tiles * (kTileBytes / 2);
    for (int pair = 0; pair < kDepthKeys / 2; ++pair) {
      const int j = depth * kDepthKeys + 2 * pair;
      prefetcher->Lines(2);
      const bool has_a = j >= tile.begin && j < tile.end;
      const bool has_b = j + 1 >= tile.begin && j + 1 < tile.end;
      for (int c = 0; c < d; c += 32) {
        const int64_t at = 2 * c;
        const __m512i a = has_a ? LoadValues(tile.v[j] + at, d - c) : _mm512_setzero_si512();
        const __m512i b =
            has_b ? LoadValues(tile.v[j + 1] + at, d - c) : _mm512_setzero_si512();
        not_finite |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(a, exponent), exponent) |
                      _mm512_cmpeq_epi16_mask(_mm512_and_si512(b, exponent), exponent);
        uint16_t* to = tiles + (c / 16 * 16 + pair) * 32;
        _mm512_store_si512(to, _mm512_permutex2var_epi16(a, first_half, b));
        if (d - c > 16) {
          _mm512_store_si512(to + kTileBytes / 2, _mm512_permutex2var_epi16(a, second_half, b));
        }
      }
    }
  }
  return not_finite != 0;
}

LORAMUX_INLINE bool IsFinite(uint16_t bf16) { return (bf16 & 0x7f80) != 0x7f80; }

// Zero in place of staged bf16 values that are not finite: a weight of zero times them is NaN.
inline void HideNonFinite(const AmxSizes& sizes, const AmxScratch& s, const KeyTile& tile) {
  const int first = tile.begin / kDepthKeys;
  const int last = (tile.end + kDepthKeys - 1) / kDepthKeys;
  uint16_t* values = s.values;
  for (int64_t i = first * sizes.value_tiles * (kTileBytes / 2);
       i < last * sizes.value_tiles * (kTileBytes / 2); ++i) {
    if (!IsFinite(values[i])) values[i] = 0;
  }
}

// Adds what HideNonFinite took out to a row that sees keys [low, high).
inline void AddNonFinite(const KeyTile& tile, int low, int high, int d, float* acc) {
  for (int j = low; j < high; ++j) {
    for (int i = 0; i < d; ++i) {
      uint16_t value;
      __builtin_memcpy(&value, tile.v[j] + 2 * i, sizeof(value));
      if (IsFinite(value)) continue;
      const uint32_t bits = static_cast<uint32_t>(value) << 16;
      float wide;
      __builtin_memcpy(&wide, &bits, sizeof(wide));
      acc[i] += wide;
    }
  }
}

}  // namespace loramux::LORAMUX_SIMD_NS
