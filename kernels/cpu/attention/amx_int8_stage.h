// From queries, keys and values of int8 caches to tile operands.
#pragma once

#include "cpu/attention/amx_int8.h"

namespace loramux::LORAMUX_SIMD_NS {

// A prepared query row: zeros up to whole tile rows.
inline void StoreInt8Query(const Int8Sizes& sizes, const float* head, int d, char* row) {
  constexpr float kLevels = 127.0f * 256.0f;
  const float largest = LargestMagnitude(head, d);
  const bool usable = largest >= kSmallestMagnitude;
  const VF inverse = Set1(usable ? kLevels / largest : 0.0f);
  // 1, not 0: it is multiplied with minus infinity.
  const float scale = usable ? largest / kLevels : largest != largest ? largest : 1.0f;
  int8_t* high = reinterpret_cast<int8_t*>(row);
  int8_t* low = high + sizes.depth_bytes;
  for (int i = 0; i < sizes.depth_bytes; i += kLanes) {
    const int n = MaxOf(0, MinOf(kLanes, d - i));
    const VI q = RoundToInt(usable ? LoadN(head + i, n) * inverse : Zero());
    const VI h = (q + 128) >> 8;
    const VI8 high_levels = __builtin_convertvector(h, VI8);
    const VI8 low_levels = __builtin_convertvector(q - (h << 8), VI8);
    __builtin_memcpy(high + i, &high_levels, sizeof(high_levels));
    __builtin_memcpy(low + i, &low_levels, sizeof(low_levels));
  }
  __builtin_memcpy(low + sizes.depth_bytes, &scale, sizeof(scale));
}

inline void PackInt8Queries(const AttentionCall& call, const Int8Sizes& sizes,
                            const AttendUnit& unit, const Int8Scratch& s) {
  const int64_t rows = static_cast<int64_t>(unit.count) * call.Group();
  char* tile = s.queries;
  float* scale = s.query_scale;
  for (int32_t h = 0; h < unit.heads; ++h) {
    const char* from = call.QueryRows(unit.kv_head + h, unit.first);
    for (int64_t r = 0; r < rows; r += kInt8Rows) {
      for (int64_t c = 0; c < sizes.depth_tiles; ++c) {
        for (int64_t i = 0; i < kInt8Rows; ++i) {
          const char* row = from + (r + i) * sizes.query_bytes + 64 * c;
          const __mmask64 keep = r + i < rows ? ~__mmask64{0} : 0;
          _mm512_store_si512(tile + 64 * i, _mm512_maskz_loadu_epi8(keep, row));
          _mm512_store_si512(tile + 64 * (kInt8Rows + i),
                             _mm512_maskz_loadu_epi8(keep, row + sizes.depth_bytes));
        }
        tile += kTileBytes;
      }
      for (int64_t i = r; i < r + kInt8Rows; ++i, ++scale) {
        *scale = 1.0f;
        if (i >= rows) continue;
        __builtin_memcpy(scale, from + i * sizes.query_bytes + 2 * sizes.depth_bytes,
                         sizeof(float));
      }
    }
  }
}

// Finds the present keys of a tile and gathers their scales. Of keys in quads, whole groups: a
// block holds them, and what a row does not see does not reach it.
inline void LocateInt8(const AttentionCall& call, const Int8Sizes& sizes, const AttendUnit& unit,
                       int32_t kv_head, int32_t base, int32_t lowest, int32_t highest,
                       const Int8Scratch& s, KeyTile* tile) {
  const PagedAttentionArgs& args = *call.args;
  const int32_t* table = args.block_tables + static_cast<int64_t>(unit.sequence) * args.max_blocks;
  const int64_t d = args.head_size;
  tile->base = base;
  tile->begin = MaxOf(lowest - base, 0);
  tile->end = MinOf(highest - base, kKeys);
  const int step = call.in_quads ? kGroupKeys : 1;
  const int first = tile->begin / step * step;
  int32_t block = (base + first) / args.block_size;
  int32_t inside = (base + first) % args.block_size;
  for (int j = first; j < tile->end; j += step) {
    const int64_t at = call.HeadOffset(table[block], kv_head);
    const char* k = static_cast<const char*>(args.k_cache) + at;
    const char* v = static_cast<const char*>(args.v_cache) + at;
    const float* k_scale = reinterpret_cast<const float*>(k + call.scale_offset) + inside;
    const float* v_scale = reinterpret_cast<const float*>(v + call.scale_offset) + inside;
    StoreN(s.k_scale + j, LoadN(k_scale, step), step);
    StoreN(s.v_scale + j, LoadN(v_scale, step), step);
    tile->k[j] = k + inside * d;
    tile->v[j] = v + inside * d;
    inside += step;
    if (inside == args.block_size) {
      inside = 0;
      ++block;
    }
  }
  for (int g = 0; g < kGroups; ++g) {
    const bool present = (g + 1) * kGroupKeys > tile->begin && g * kGroupKeys < tile->end;
    tile->k_group[g] = sizes.keys_as_they_lie && present
                           ? tile->k[g * kGroupKeys]
                           : s.keys + g * sizes.depth_tiles * kTileBytes;
  }
}

// Lines of a group in quads to a tile each; the last may be short.
LORAMUX_INLINE void CopyQuads(const char* from, int64_t bytes, char* to, int64_t step) {
  for (int64_t i = 0; i < bytes; i += 64, to += step) {
    const __mmask64 keep = bytes - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (bytes - i)) - 1;
    _mm512_store_si512(to, _mm512_maskz_loadu_epi8(keep, from + i));
  }
}

// Where keys do not do as they lie. What lies past a key's elements is multiplied with zeros.
inline void StageKeyQuads(const Int8Sizes& sizes, const Int8Scratch& s, int d,
                          const KeyTile& tile) {
  for (int j = tile.begin / kGroupKeys * kGroupKeys; j < tile.end; j += kGroupKeys) {
    char* to = s.keys + j / kGroupKeys * sizes.depth_tiles * kTileBytes;
    CopyQuads(tile.k[j], int64_t{kGroupKeys} * d, to, 64);
  }
}

// Values, keys in quads: tile row 4 L + g of a depth of four groups holds keys 4 L .. 4 L + 3 of
// group g. What lies in rows of absent keys does not matter: their weights are zero.
LORAMUX_INLINE char* ValueQuad(const Int8Sizes& sizes, const Int8Scratch& s, int j) {
  const int row = j % kGroupKeys / 4 * 4 + j / kGroupKeys % 4;
  return s.values + j / kInt8DepthKeys * sizes.value_tiles * kTileBytes + 64 * row;
}

inline void StageValueQuads(const Int8Sizes& sizes, const Int8Scratch& s, int d,
                            const KeyTile& tile, Prefetcher* prefetcher) {
  for (int j = tile.begin / kGroupKeys * kGroupKeys; j < tile.end; j += kGroupKeys) {
    prefetcher->Slice();
    const char* from = tile.v[j];
    for (int i = 0; i < kGroupKeys; i += 4) {
      char* to = ValueQuad(sizes, s, j + i);
      CopyQuads(from + i * d, 4 * d, to, kTileBytes);
    }
  }
}

// 64 elements of a row-major key or value from element c on; none of an absent one. Zeros past d.
LORAMUX_INLINE __m512i LoadLevels(const char* const* rows, const KeyTile& tile, int j, int c,
                                  int d) {
  if (j < tile.begin || j >= tile.end) return _mm512_setzero_si512();
  const __mmask64 keep = d - c >= 64 ? ~__mmask64{0} : (__mmask64{1} << (d - c)) - 1;
  return _mm512_maskz_loadu_epi8(keep, rows[j] + c);
}

// Row-major keys, of groups that have present ones.
inline void StageKeyRows(const Int8Sizes& sizes, const Int8Scratch& s, int d,
                         const KeyTile& tile) {
  for (int g = 0; g < kGroups; ++g) {
    char* to = s.keys + g * sizes.depth_tiles * kTileBytes;
    const int first = g * kGroupKeys;
    if (first >= tile.end || first + kGroupKeys <= tile.begin) continue;
    for (int c = 0; c < d; c += 64) {
      VF v[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) v[i] = (VF)LoadLevels(tile.k, tile, first + i, c, d);
      Transpose(v);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) Store(reinterpret_cast<float*>(to + 16 * c + 64 * i), v[i]);
    }
  }
}

inline void StageValueRows(const Int8Sizes& sizes, const Int8Scratch& s, int d,
                           const KeyTile& tile) {
  for (int j = tile.begin / 4 * 4; j < tile.end; j += 4) {
    char* to = ValueQuad(sizes, s, j);
    for (int c = 0; c < d; c += 64) {
      __m512i v[4];
      for (int i = 0; i < 4; ++i) v[i] = LoadLevels(tile.v, tile, j + i, c, d);
      const __m512i ab_low = _mm512_unpacklo_epi8(v[0], v[1]);
      const __m512i ab_high = _mm512_unpackhi_epi8(v[0], v[1]);
      const __m512i cd_low = _mm512_unpacklo_epi8(v[2], v[3]);
      const __m512i cd_high = _mm512_unpackhi_epi8(v[2], v[3]);
      // 128-bit lane L of t[k]: quads of elements 16 L + 4 k on.
      const __m512i t[4] = {
          _mm512_unpacklo_epi16(ab_low, cd_low), _mm512_unpackhi_epi16(ab_low, cd_low),
          _mm512_unpacklo_epi16(ab_high, cd_high), _mm512_unpackhi_epi16(ab_high, cd_high)};
      const __m512i low01 = _mm512_shuffle_i32x4(t[0], t[1], 0x44);
      const __m512i high01 = _mm512_shuffle_i32x4(t[0], t[1], 0xee);
      const __m512i low23 = _mm512_shuffle_i32x4(t[2], t[3], 0x44);
      const __m512i high23 = _mm512_shuffle_i32x4(t[2], t[3], 0xee);
      const __m512i columns[4] = {
          _mm512_shuffle_i32x4(low01, low23, 0x88), _mm512_shuffle_i32x4(low01, low23, 0xdd),
          _mm512_shuffle_i32x4(high01, high23, 0x88), _mm512_shuffle_i32x4(high01, high23, 0xdd)};
      for (int i = 0; i < 4 && c + 16 * i < d; ++i) {
        _mm512_store_si512(to + (c / 16 + i) * kTileBytes, columns[i]);
      }
    }
  }
}

}  // namespace loramux::LORAMUX_SIMD_NS
