// int8 caches in tiles. Everything that is multiplied in tiles is an exact integer: queries have 16
// bits in two levels, q = (256 high + low) scale, and the weights of a row's values, times the
// values' scales, become 16-bit levels of the row's largest such product in the tile of keys. High
// and low levels of 8 query rows share one tile, 8 rows each, so that a decode step of a group of 8
// heads wastes no lane. A row's results do not depend on what else the tile holds.
//
// Error of the weights: half a level, 2^-17 of the largest of the tile's products of weight and
// scale for each key (bf16 weights: 2^-9 of each).
#pragma once

#include "cpu/attention/amx_layout.h"
#include "cpu/attention/write_impl.h"

namespace loramux::LORAMUX_SIMD_NS {

constexpr int kInt8Rows = 8;         // query rows that share a tile
constexpr int kInt8DepthKeys = 64;   // depth of a value product
constexpr int kInt8Depths = kKeys / kInt8DepthKeys;
constexpr float kWeightLevels = 65535.0f;
static_assert(kInt8DepthKeys == 4 * kGroupKeys, "PackLevels takes four groups");

struct Int8Sizes {
  int64_t depth_bytes;   // of a key, rounded up to whole tile rows
  int64_t depth_tiles;
  int64_t query_bytes;   // of a prepared query row
  int64_t value_tiles;   // of 16 columns
  int64_t rows;          // of a unit at most
  bool keys_as_they_lie;  // keys of a group are an operand in the cache
};

inline Int8Sizes Int8SizesOf(const PagedAttentionArgs& args) {
  Int8Sizes s;
  s.depth_tiles = CeilDiv(args.head_size, 64);
  s.depth_bytes = s.depth_tiles * 64;
  s.query_bytes = 2 * s.depth_bytes + 64;  // [high levels | low levels | scale]
  s.value_tiles = CeilDiv(args.head_size, 16);
  const int64_t group = args.num_heads / args.num_kv_heads;
  s.rows = CeilDiv(MaxOf<int64_t>(group, kAmxUnitRows), kInt8Rows) * kInt8Rows;
  s.keys_as_they_lie = args.block_size % kKvGroupTokens == 0 && args.head_size % 64 == 0;
  return s;
}

// One worker's scratch.
struct Int8Scratch {
  char* queries;       // [row groups][depth_tiles][8 rows high, 8 rows low][64]: operand A
  char* keys;          // [kGroups][depth_tiles][16 quads of elements][16 keys][4]: operand B
  char* values;        // [kInt8Depths][value_tiles][16 quads of keys][16 columns][4]: operand B
  int32_t* scores;     // [8 rows high, 8 rows low][kKeys]; then high halves: float32
  uint8_t* weights;    // [kInt8Depths][8 rows high, 8 rows low][64 keys]: operand A
  int32_t* sums;       // [8 rows high, 8 rows low][16 * value_tiles]: products with values
  float* query_scale;  // [rows]
  float* k_scale;      // [kKeys]
  float* v_scale;      // [kKeys]
  int64_t bytes;
};

inline Int8Scratch Int8ScratchOf(const Int8Sizes& sizes, char* memory) {
  Int8Scratch s;
  ScratchLines lines{memory};
  s.queries = lines.Take<char>(sizes.rows / kInt8Rows * sizes.depth_tiles * kTileBytes);
  s.keys = lines.Take<char>(kGroups * sizes.depth_tiles * kTileBytes);
  s.values = lines.Take<char>(kInt8Depths * sizes.value_tiles * kTileBytes);
  s.scores = lines.Take<int32_t>(2 * kInt8Rows * kKeys * 4);
  s.weights = lines.Take<uint8_t>(kInt8Depths * kTileBytes);
  s.sums = lines.Take<int32_t>(sizes.value_tiles * kTileBytes);
  s.query_scale = lines.Take<float>(4 * sizes.rows);
  s.k_scale = lines.Take<float>(4 * kKeys);
  s.v_scale = lines.Take<float>(4 * kKeys);
  s.bytes = lines.at - memory;
  return s;
}

// Raw scores of key groups [first, last); last - first is a multiple of 4.
LORAMUX_INLINE void Int8Scores(const Int8Sizes& sizes, const Int8Scratch& s, const KeyTile& tile,
                               const char* queries, int first, int last) {
  for (int g = first; g < last; g += 4) {
    TileZero<0>();
    TileZero<1>();
    TileZero<2>();
    TileZero<3>();
    for (int64_t c = 0; c < sizes.depth_tiles; ++c) {
      const int64_t at = c * kTileBytes;
      TileLoad<4>(queries + at, 64);
      TileLoad<5>(tile.k_group[g] + at, 64);
      TileDotInt8<0, 4, 5>();
      TileLoad<6>(tile.k_group[g + 1] + at, 64);
      TileDotInt8<1, 4, 6>();
      TileLoad<7>(tile.k_group[g + 2] + at, 64);
      TileDotInt8<2, 4, 7>();
      TileLoad<5>(tile.k_group[g + 3] + at, 64);
      TileDotInt8<3, 4, 5>();
    }
    int32_t* to = s.scores + g * kGroupKeys;
    TileStore<0>(to, 4 * kKeys);
    TileStore<1>(to + 16, 4 * kKeys);
    TileStore<2>(to + 32, 4 * kKeys);
    TileStore<3>(to + 48, 4 * kKeys);
  }
}

// Which keys of a tile a row sees, a bit each.
struct KeyBits {
  uint64_t half[2];

  LORAMUX_INLINE KeyBits Range(int low, int high) {
    KeyBits b;
    for (int h = 0; h < 2; ++h) {
      const int from = MinOf(MaxOf(low - 64 * h, 0), 64);
      const int to = MinOf(MaxOf(high - 64 * h, 0), 64);
      b.half[h] = Below(to) & ~Below(from);
    }
    return b;
  }
  LORAMUX_INLINE uint64_t Below(int n) { return n == 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }
  inline __attribute__((always_inline)) __mmask16 Group(int g) const {
    return static_cast<__mmask16>(half[g / 4] >> (16 * (g % 4)));
  }
};

// Lane r and lane 8 + r of the result: op over all lanes of v[r].
template <typename Op>
LORAMUX_INLINE VF ReduceRows(const VF (&v)[kInt8Rows], Op&& op) {
  VF a[4];
  for (int i = 0; i < 4; ++i) {  // pairs of rows: lanes 2q of row i, 2q + 1 of row 4 + i
    a[i] = op(_mm512_unpacklo_ps(v[i], v[4 + i]), _mm512_unpackhi_ps(v[i], v[4 + i]));
  }
  VF b[2];
  for (int i = 0; i < 2; ++i) {
    b[i] = op(_mm512_unpacklo_ps(a[i], a[2 + i]), _mm512_unpackhi_ps(a[i], a[2 + i]));
  }
  // In each 128-bit lane of b[i]: rows i, 2 + i, 4 + i, 6 + i.
  const VF low = _mm512_shuffle_f32x4(b[0], b[1], 0x44);
  const VF high = _mm512_shuffle_f32x4(b[0], b[1], 0xee);
  VF c = op(low, high);  // 128-bit lanes: b[0], b[0], b[1], b[1]
  c = op(c, _mm512_shuffle_f32x4(c, c, 0xb1));
  const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 0, 8, 1, 9, 2, 10, 3, 11);
  return _mm512_permutexvar_ps(order, c);
}

// 64 weights as 16-bit levels, high and low bytes apart. Of four groups of 16 keys, byte
// 16 L + 4 g + i of the results is key 4 L + i of group g: the order of ValueQuad.
LORAMUX_INLINE void PackLevels(const __m512i (&levels)[4], uint8_t* high, uint8_t* low) {
  const __m512i a = _mm512_packus_epi32(levels[0], levels[1]);
  const __m512i b = _mm512_packus_epi32(levels[2], levels[3]);
  const __m512i bytes = _mm512_set1_epi16(0xff);
  _mm512_store_si512(high,
                     _mm512_packus_epi16(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8)));
  _mm512_store_si512(low, _mm512_packus_epi16(_mm512_and_si512(a, bytes),
                                              _mm512_and_si512(b, bytes)));
}

// What a tile of keys did to 8 rows: their accumulators become acc * keep + sums * add.
struct Int8Update {
  float keep[16];
  float add[16];
};

// Raw scores of key groups [first, last) become weights; max and sum are brought up to date.
// kMasked: some row does not see all of these keys; sees[r] says which.
template <bool kMasked>
LORAMUX_INLINE void Int8Softmax(const Int8Scratch& s, int first, int last, const KeyBits* sees,
                                const float* query_scale, float* max, float* sum,
                                Int8Update* update, Prefetcher* prefetcher) {
  float* scores = reinterpret_cast<float*>(s.scores);
  const VF minus_infinity = Set1(MinusInfinity());
  const auto larger = [](VF a, VF b) __attribute__((always_inline)) { return Max(a, b); };
  // Weights are not negative, and in the order of their bits NaN of either sign is the largest.
  const auto larger_bits = [](VF a, VF b) __attribute__((always_inline)) {
    return (VF)_mm512_max_epu32((__m512i)a, (__m512i)b);
  };
  VF each[kInt8Rows];
  for (int r = 0; r < kInt8Rows; ++r) {
    prefetcher->Slice();
    VF largest[2] = {minus_infinity, minus_infinity};
    for (int g = first; g < last; g += 2) {
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        float* at = scores + r * kKeys + (g + i) * kGroupKeys;
        const __m512i high = _mm512_load_si512(at);
        const __m512i low = _mm512_load_si512(at + kInt8Rows * kKeys);
        VF x = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 8), low));
        x = x * Load(s.k_scale + (g + i) * kGroupKeys);
        Store(at, x);
        if (kMasked) x = _mm512_mask_mov_ps(minus_infinity, sees[r].Group(g + i), x);
        largest[i] = Max(x, largest[i]);  // takes the second where x is NaN
      }
    }
    each[r] = Max(largest[0], largest[1]);
  }
  const VF scale = _mm512_broadcast_f32x8(_mm256_loadu_ps(query_scale));
  const VF tile_max = ReduceRows(each, larger) * scale;
  const VF old_max = _mm512_broadcast_f32x8(_mm256_loadu_ps(max));
  const VF new_max = Max(tile_max, old_max);  // takes the old one where the tile's is NaN
  // A row that sees nothing yet: any finite number will do.
  const auto finite = [&](VF v) __attribute__((always_inline)) {
    const __mmask16 none = _mm512_cmp_ps_mask(v, minus_infinity, _CMP_EQ_OQ);
    return _mm512_mask_mov_ps(v, none, Zero());
  };
  alignas(64) float reference[16];
  Store(reference, finite(tile_max));

  VF total[kInt8Rows];
  for (int r = 0; r < kInt8Rows; ++r) {
    const VF row_scale = Set1(query_scale[r]);
    const VF row_reference = Set1(reference[r]);
    VF row_sum[2] = {Zero(), Zero()};
    VF row_largest[2] = {Zero(), Zero()};
    for (int g = first; g < last; g += 2) {
      prefetcher->Slice();
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        float* at = scores + r * kKeys + (g + i) * kGroupKeys;
        VF p = Exp2::Of(_mm512_fmsub_ps(Load(at), row_scale, row_reference));
        VF w = p * Load(s.v_scale + (g + i) * kGroupKeys);
        if (kMasked) {
          p = _mm512_maskz_mov_ps(sees[r].Group(g + i), p);
          w = _mm512_maskz_mov_ps(sees[r].Group(g + i), w);
        }
        row_sum[i] = row_sum[i] + p;
        row_largest[i] = larger_bits(row_largest[i], w);
        Store(at, w);
      }
    }
    total[r] = row_sum[0] + row_sum[1];
    each[r] = larger_bits(row_largest[0], row_largest[1]);
  }
  const VF tile_sum =
      ReduceRows(total, [](VF a, VF b) __attribute__((always_inline)) { return a + b; });
  const VF largest = ReduceRows(each, larger_bits);
  // Below, the reciprocal could overflow; NaN counts as large.
  const __mmask16 usable =
      _mm512_cmp_ps_mask(largest, Set1(kSmallestMagnitude), _CMP_NLT_UQ);
  alignas(64) float inverse[16];
  Store(inverse, _mm512_maskz_div_ps(usable, Set1(kWeightLevels), largest));

  for (int r = 0; r < kInt8Rows; ++r) {
    const VF row_inverse = Set1(inverse[r]);
    prefetcher->Slice();
    for (int g = first; g < last; g += 4) {
      const float* at = scores + r * kKeys + g * kGroupKeys;
      __m512i levels[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        levels[i] = _mm512_cvt_roundps_epi32(Load(at + i * kGroupKeys) * row_inverse,
                                             _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      }
      uint8_t* to = s.weights + g / 4 * kTileBytes + r * 64;
      PackLevels(levels, to, to + kInt8Rows * 64);
    }
  }

  const VF new_reference = finite(new_max);
  const VF keep = Exp2::Of(old_max - new_reference);
  const VF add = Exp2::Of(tile_max - new_reference);
  const VF new_sum = _mm512_broadcast_f32x8(_mm256_loadu_ps(sum)) * keep + tile_sum * add;
  StoreN(max, new_max, kInt8Rows);
  StoreN(sum, new_sum, kInt8Rows);
  Store(update->keep, keep);
  Store(update->add, add * (largest * Set1(1.0f / kWeightLevels)));
}

template <int kN>
struct Count {
  static constexpr int kValue = kN;
};

// Products of weights and values, then acc [8, stride].
LORAMUX_INLINE void Int8Values(const Int8Sizes& sizes, const Int8Scratch& s, int first_depth,
                               int last_depth, const Int8Update& update, float* acc,
                               int64_t stride, Prefetcher* prefetcher) {
  const int64_t columns = 16 * sizes.value_tiles;
  const auto tiles = [&](auto count, int64_t c) __attribute__((always_inline)) {
    constexpr int kCount = decltype(count)::kValue;
    TileZero<0>();
    if (kCount > 1) TileZero<1>();
    if (kCount > 2) TileZero<2>();
    if (kCount > 3) TileZero<3>();
    for (int depth = first_depth; depth < last_depth; ++depth) {
      const char* values = s.values + (depth * sizes.value_tiles + c) * kTileBytes;
      TileLoad<4>(s.weights + depth * kTileBytes, 64);
      TileLoad<5>(values, 64);
      TileDotUnsignedInt8<0, 4, 5>();
      if (kCount > 1) TileLoad<6>(values + kTileBytes, 64);
      if (kCount > 1) TileDotUnsignedInt8<1, 4, 6>();
      if (kCount > 2) TileLoad<7>(values + 2 * kTileBytes, 64);
      if (kCount > 2) TileDotUnsignedInt8<2, 4, 7>();
      if (kCount > 3) TileLoad<5>(values + 3 * kTileBytes, 64);
      if (kCount > 3) TileDotUnsignedInt8<3, 4, 5>();
    }
    int32_t* to = s.sums + 16 * c;
    TileStore<0>(to, 4 * columns);
    if (kCount > 1) TileStore<1>(to + 16, 4 * columns);
    if (kCount > 2) TileStore<2>(to + 32, 4 * columns);
    if (kCount > 3) TileStore<3>(to + 48, 4 * columns);
  };
  int64_t c = 0;
  for (; c + 4 <= sizes.value_tiles; c += 4) tiles(Count<4>(), c);
  for (; c < sizes.value_tiles; ++c) tiles(Count<1>(), c);
  for (int r = 0; r < kInt8Rows; ++r) {
    prefetcher->Slice();
    const VF keep = Set1(update.keep[r]);
    const VF add = Set1(update.add[r]);
    const int32_t* high = s.sums + r * columns;
    const int32_t* low = high + kInt8Rows * columns;
    float* to = acc + r * stride;
    for (int64_t i = 0; i < columns; i += kLanes) {
      const __m512i sums = _mm512_add_epi32(
          _mm512_slli_epi32(_mm512_load_si512(high + i), 8), _mm512_load_si512(low + i));
      Store(to + i, Fma(_mm512_cvtepi32_ps(sums), add, Load(to + i) * keep));
    }
  }
}

}  // namespace loramux::LORAMUX_SIMD_NS
