// Activations as AMX wants them, and how a finished sum reaches its place. Included by
// packed_amx.cc alone, which is compiled for AVX-512 with VNNI, BF16 and AMX.
//
// Activations lie in tiles: blocks of 16 rows, and in a block tile after tile of 64 bytes of depth
// per row, [row blocks][depth / 64 bytes][16][64].
#pragma once

#include <immintrin.h>

#include "cpu/amx_config.h"
#include "cpu/packed/packed_table.h"

namespace loramux::packed::amx {
namespace {

#define LORAMUX_INLINE static inline __attribute__((always_inline))
#define LORAMUX_INLINE_MEMBER inline __attribute__((always_inline))
// GCC's tile intrinsics do not say which memory they read and write.
#define LORAMUX_TILE_FENCE() __asm__ volatile("" ::: "memory")

constexpr int64_t kTileBytes = 1024;
// Rows at a time: activations that stay in the second cache while panels pass by, and at most so
// many, whose sums stay there too.
constexpr int64_t kChunkRows = 512;
constexpr int64_t kOperandBytesMax = 1280 * 1024;
constexpr int64_t kBf16Block = 512;       // depth between two visits of a sum, for many rows
constexpr int64_t kDecodeRows = 32;       // up to here a call is bound by reading weights
constexpr int64_t kStreamAhead = 8 * 1024;  // bytes that decode fetches ahead of its reading
// The same for tiles that stream from memory. Tile loads do not run ahead of tile products, so what
// is not in the first cache when it is loaded is waited for; a tile ahead is enough, further ahead
// only takes fill buffers for longer.
constexpr int64_t kTileAhead = 1024;
// Results larger than this are written past the caches, which could not keep them: a store that
// fetches its line first would read as much as it writes.
constexpr int64_t kResultBytesMax = 1024 * 1024;
constexpr float kSmallest = 0x1p-100f;    // groups below are zero

LORAMUX_INLINE int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
LORAMUX_INLINE int64_t Max(int64_t a, int64_t b) { return a < b ? b : a; }
LORAMUX_INLINE int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
LORAMUX_INLINE int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// Tiles 0 to 3 add up, 4 and 5 hold activations, 6 and 7 weights: `depth` bytes per row or column.
LORAMUX_INLINE void Configure(int rows, int depth) {
  TileConfig config;
  for (int t = 0; t < 4; ++t) config.Set(t, rows, 64);
  for (int t = 4; t < 6; ++t) config.Set(t, rows, depth);
  for (int t = 6; t < 8; ++t) config.Set(t, depth / 4, 64);
  config.Load();
}

LORAMUX_INLINE bool IsInt(const Operand& operand) { return operand.format != PackedFormat::kBf16; }
LORAMUX_INLINE int64_t DepthBytes(const Operand& operand) {
  return IsInt(operand) ? operand.padded_k : 2 * operand.padded_k;
}
LORAMUX_INLINE int64_t RowBlocks(const Operand& operand) {
  return CeilDiv(operand.rows, kRowsPerBlock);
}
LORAMUX_INLINE int64_t BlockBytes(const Operand& operand) {
  return kRowsPerBlock * DepthBytes(operand);
}
LORAMUX_INLINE uint8_t* Tiles(const Operand& operand) {
  return static_cast<uint8_t*>(operand.data);
}
// [groups][row blocks * 16]
LORAMUX_INLINE float* Scales(const Operand& operand) {
  return reinterpret_cast<float*>(Tiles(operand) + RowBlocks(operand) * BlockBytes(operand));
}

// Sums of the rounded activations over 32 of depth, of the first rows: [kFewRows][padded_k / 32].
// Where rows are few, int4 levels are multiplied as they are stored (amx_few_rows.h).
constexpr int64_t kFewRows = 4;
constexpr int64_t kSumDepth = kSmallestGroup;
LORAMUX_INLINE int32_t* Sums(const Operand& operand) {
  return reinterpret_cast<int32_t*>(Scales(operand) +
                                    operand.Groups() * RowBlocks(operand) * kRowsPerBlock);
}

int64_t OperandBytes(const Operand& operand) {
  const int64_t blocks = RowBlocks(operand);
  if (!IsInt(operand)) return blocks * BlockBytes(operand);
  const int64_t scales = operand.Groups() * blocks * kRowsPerBlock;
  const int64_t sums = kFewRows * (operand.padded_k / kSumDepth);
  return blocks * BlockBytes(operand) + (scales + sums) * int64_t{4};
}

// Scratch of a worker: tiles as they leave the accumulators, sums of a chunk of rows, and two
// activation groups of unpacked int4 weights.
struct Scratch {
  int32_t* tiles;
  float* sums;
  int8_t* unpacked;
  int64_t unpacked_bytes;  // of one of the two, kPanelsMax panels
};
// Panels that are multiplied side by side, at most.
constexpr int kPanelsMax = 4;
// Twice four: what is written now, and what is being added up.
constexpr int64_t kScratchTiles = 2 * 4 * kTileBytes;
constexpr int64_t kScratchSums = kChunkRows * 2 * kPanelColumns * int64_t{sizeof(float)};

// Floats between rows of the chunk's sums, in panels.
LORAMUX_INLINE constexpr int64_t SumsWidth(int panels) { return panels == 4 ? 4 : 2; }

LORAMUX_INLINE int64_t UnpackedBytes(const Operand& operand) {
  return kPanelsMax * kPanelColumns * RoundUp(Min(operand.activation_group, operand.padded_k), 64);
}
int64_t ScratchBytes(const Operand& operand, const PackedShape& shape) {
  return kScratchTiles + kScratchSums +
         (shape.format == PackedFormat::kInt4 ? 2 * UnpackedBytes(operand) : 0);
}
LORAMUX_INLINE Scratch ScratchOf(const MultiplyArgs& args) {
  auto* at = static_cast<char*>(args.scratch);
  Scratch s;
  s.tiles = reinterpret_cast<int32_t*>(at);
  s.sums = reinterpret_cast<float*>(at + kScratchTiles);
  s.unpacked = reinterpret_cast<int8_t*>(at + kScratchTiles + kScratchSums);
  s.unpacked_bytes = UnpackedBytes(args.operand);
  return s;
}

// Chunks of even size whose activations stay in the second cache.
int64_t UnitRows(const Operand& operand) {
  constexpr int64_t kPairRows = 2 * kRowsPerBlock;
  if (operand.rows <= kPairRows) return operand.rows;
  const int64_t fit = kOperandBytesMax / Max(1, DepthBytes(operand)) / kPairRows * kPairRows;
  const int64_t most = Max(kPairRows, Min(fit, kChunkRows));
  return RoundUp(CeilDiv(operand.rows, CeilDiv(operand.rows, most)), kPairRows);
}

int64_t UnitPanels(const Operand& operand, const PackedShape& shape) {
  if (operand.rows <= kDecodeRows) {
    // About 128 KiB, and whole sets of streams: long enough to stream, short enough to share out.
    const int64_t panel_bytes = LayoutOf(shape).panel_bytes;
    return Max(kPanelsMax, Min(8, 128 * 1024 / Max(1, panel_bytes) / 4 * 4));
  }
  return UnitRows(operand) < operand.rows ? 4 : 2;
}

LORAMUX_INLINE __mmask16 FirstLanes(int64_t n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1);
}

// Largest magnitude of a group's bit patterns, compared as integers, so that a NaN is the largest.
LORAMUX_INLINE __m512i Magnitude(__m512 v) {
  return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
}

// 64 inputs to int8. No clamp: |x| <= m, so that x * (127 / m) rounds to at most 127.
LORAMUX_INLINE __m512i RoundToInt8(const __m512 (&v)[4], __m512 by) {
  __m512i q[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(v[i], by));
  const __m512i words = _mm512_packs_epi16(_mm512_packs_epi32(q[0], q[1]),
                                           _mm512_packs_epi32(q[2], q[3]));
  // Packing went lane by lane: put the quads of each source back in a row.
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  return _mm512_permutexvar_epi32(order, words);
}

// One row to int8, one scale per activation group, see packed_linear.h.
void PrepareIntRow(const Operand& operand, const float* x, int64_t row) {
  const int64_t stride = RowBlocks(operand) * kRowsPerBlock;
  float* scales = Scales(operand) + row;
  uint8_t* tile = Tiles(operand) + row / kRowsPerBlock * BlockBytes(operand) +
                  row % kRowsPerBlock * 64;
  int32_t* sums =
      row < kFewRows ? Sums(operand) + row * (operand.padded_k / kSumDepth) : nullptr;
  const int64_t k = operand.k;
  for (int64_t begin = 0; begin < operand.padded_k; begin += operand.activation_group) {
    const int64_t end = Min(begin + operand.activation_group, operand.padded_k);
    const auto load = [&](int64_t at, __m512 (&v)[4]) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int64_t left = k - at - 16 * i;
        v[i] = left >= 16 ? _mm512_loadu_ps(x + at + 16 * i)
                          : _mm512_maskz_loadu_ps(FirstLanes(Max(0, left)), x + at + 16 * i);
      }
    };
    __m512i largest = _mm512_setzero_si512();
    __m512 v[4];
    for (int64_t at = begin; at < end; at += 64) {
      load(at, v);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) largest = _mm512_max_epi32(largest, Magnitude(v[i]));
    }
    const int32_t bits = _mm512_reduce_max_epi32(largest);
    const float max = _mm512_cvtss_f32(_mm512_castsi512_ps(_mm512_set1_epi32(bits)));
    const bool finite = bits < 0x7f800000;
    const bool zero = finite && max < kSmallest;
    *scales = zero ? 0.0f : finite ? max / 127.0f : __builtin_nanf("");
    scales += stride;
    const __m512 by = _mm512_set1_ps(zero || !finite ? 0.0f : 127.0f / max);
    for (int64_t at = begin; at < end; at += 64, tile += kTileBytes) {
      load(at, v);
      __m512i q = zero || !finite ? _mm512_setzero_si512() : RoundToInt8(v, by);
      _mm512_storeu_si512(tile, q);
      if (sums == nullptr) continue;
      const __m512i quads = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), q);
      sums[at / kSumDepth] = _mm512_mask_reduce_add_epi32(0x00ff, quads);
      sums[at / kSumDepth + 1] = _mm512_mask_reduce_add_epi32(0xff00, quads);
    }
  }
}

void PrepareBf16Row(const Operand& operand, const float* x, int64_t row) {
  uint8_t* tiles = Tiles(operand) + row / kRowsPerBlock * BlockBytes(operand) +
                   row % kRowsPerBlock * 64;
  const int64_t k = operand.k;
  for (int64_t i = 0; i < operand.padded_k; i += 16) {
    __m512 v = _mm512_setzero_ps();
    if (i < k) v = _mm512_maskz_loadu_ps(FirstLanes(k - i), x + i);
    const __m256bh half = _mm512_cvtneps_pbh(v);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(tiles + i / 32 * kTileBytes + i % 32 * 2),
                        reinterpret_cast<const __m256i&>(half));
  }
}

void Prepare(const Operand& operand, const float* x, int64_t stride, int64_t first_row,
             int64_t count) {
  // Rows of the last block that do not exist are multiplied too: nothing reads the result, but what
  // was left in memory may be slow (subnormal) numbers.
  const int64_t end = first_row + count;
  if (end == operand.rows && end % kRowsPerBlock != 0) {
    uint8_t* block = Tiles(operand) + end / kRowsPerBlock * BlockBytes(operand);
    for (int64_t tile = 0; tile < BlockBytes(operand); tile += kTileBytes) {
      for (int64_t row = end % kRowsPerBlock; row < kRowsPerBlock; ++row) {
        _mm512_storeu_si512(block + tile + row * 64, _mm512_setzero_si512());
      }
    }
  }
  for (int64_t r = 0; r < count; ++r) {
    if (IsInt(operand)) {
      PrepareIntRow(operand, x + r * stride, first_row + r);
    } else {
      PrepareBf16Row(operand, x + r * stride, first_row + r);
    }
  }
}

// What a finished sum still needs, for one panel.
struct Finish {
  __m512 column_scale;
  __m512 bias;
  __mmask16 columns;
  bool has_bias;
  bool stream;  // whole aligned lines of a large result
};
LORAMUX_INLINE Finish FinishOf(const MultiplyArgs& args, int64_t panel) {
  Finish f;
  const int64_t column = panel * kPanelColumns;
  f.columns = FirstLanes(args.weight.shape.n - column);
  f.has_bias = args.bias != nullptr;
  f.stream = f.columns == 0xffff && args.y_stride % 16 == 0 &&
             (reinterpret_cast<uintptr_t>(args.y) & 63) == 0 &&
             args.operand.rows * args.y_stride * int64_t{sizeof(float)} > kResultBytesMax;
  f.bias = f.has_bias ? _mm512_maskz_loadu_ps(f.columns, args.bias + column) : _mm512_setzero_ps();
  f.column_scale = _mm512_setzero_ps();
  if (args.layout.column_scale != 0) {
    f.column_scale = _mm512_loadu_ps(
        reinterpret_cast<const float*>(args.weight.blob + args.layout.column_scale) + column);
  }
  return f;
}
LORAMUX_INLINE void StoreRow(const MultiplyArgs& args, const Finish& f, int64_t row,
                             int64_t column, __m512 v) {
  if (f.has_bias) v = _mm512_add_ps(v, f.bias);
  const int64_t at = row * args.y_stride + column;
  if (args.residual != nullptr) {
    v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(f.columns, args.residual + at));
  }
  if (f.stream) {
    _mm512_stream_ps(args.y + at, v);
  } else {
    _mm512_mask_storeu_ps(args.y + at, f.columns, v);
  }
}

}  // namespace
}  // namespace loramux::packed::amx
