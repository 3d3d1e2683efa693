// Packed linear layers on AMX tiles; compiled for AVX-512 with VNNI, BF16 and AMX.
//
// A panel of weights is a sequence of tiles already. Weights are read from memory once per call:
// panels are the outer loop, rows the inner ones. An inner group's weights stay in the first cache
// while the activations of a chunk of rows pass from the second, where the chunk's sums stay too.
#include "cpu/packed/amx_few_rows.h"
#include "cpu/packed/amx_operand.h"

namespace loramux::packed::amx {
namespace {

// Depth [begin, end) of an int4 panel as int8 tiles, zero points subtracted.
LORAMUX_INLINE void UnpackInt4(const MultiplyArgs& args, int64_t panel, int64_t begin, int64_t end,
                               int8_t* to) {
  const PackedLayout& layout = args.layout;
  const uint8_t* from = args.weight.blob + panel * layout.panel_bytes + begin / 8 * 64;
  const int64_t group = args.weight.shape.group;
  const __m512i low = _mm512_set1_epi8(15);
  __m512i zero = _mm512_set1_epi8(8);
  int64_t zero_end = layout.zeros == 0 ? end : begin;
  const __m512i spread = _mm512_set_epi32(
      0x0f0f0f0f, 0x0e0e0e0e, 0x0d0d0d0d, 0x0c0c0c0c, 0x0b0b0b0b, 0x0a0a0a0a, 0x09090909,
      0x08080808, 0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202,
      0x01010101, 0x00000000);
  for (int64_t k = begin; k < end; k += 8) {
    if (k == zero_end) {
      const int64_t g = group > 0 ? Min(k / group, layout.groups - 1) : 0;
      const __m128i z = _mm_loadu_si128(reinterpret_cast<const __m128i*>(
          args.weight.blob + layout.zeros + (panel * Max(1, layout.groups) + g) * kPanelColumns));
      zero = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(z), spread);
      zero_end = group > 0 ? Min(end, (g + 1) * group) : end;
    }
    _mm_prefetch(from + kStreamAhead, _MM_HINT_T1);
    const __m512i v = _mm512_loadu_si512(from);
    _mm512_storeu_si512(to, _mm512_sub_epi8(_mm512_and_si512(v, low), zero));
    _mm512_storeu_si512(
        to + 64, _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(v, 4), low), zero));
    from += 64;
    to += 128;
  }
}

LORAMUX_INLINE void FetchTile(const uint8_t* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(from + i, _MM_HINT_T0);
}

// Brings what comes next to the second cache, a little with every visit: fetches that come all at
// once fill the queues that loads need.
class Fetcher {
 public:
  LORAMUX_INLINE_MEMBER Fetcher(const uint8_t* from, int64_t bytes, int64_t visits)
      : at_(from), end_(from + (from != nullptr ? bytes : 0)),
        share_(RoundUp(CeilDiv(bytes, Max(1, visits)), 64)) {}
  LORAMUX_INLINE_MEMBER void Some() {
    const uint8_t* stop = end_ - at_ > share_ ? at_ + share_ : end_;
    for (; at_ < stop; at_ += 64) _mm_prefetch(at_, _MM_HINT_T1);
  }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
  int64_t share_;
};

// What passes through the first cache once is loaded so that it leaves the rest there: weights that
// stream from memory, and the rows of a chunk, which come again only after all the others.
// Tile numbers are part of the instruction, so macros.
#define LORAMUX_LOAD_TILE(tile, from, once) \
  do {                                      \
    if constexpr (once) {                   \
      _tile_stream_loadd(tile, from, 64);   \
    } else {                                \
      _tile_loadd(tile, from, 64);          \
    }                                       \
  } while (false)
#define LORAMUX_LOAD_WEIGHTS(tile, from) LORAMUX_LOAD_TILE(tile, from, kStream)
#define LORAMUX_LOAD_ROWS(tile, from) LORAMUX_LOAD_TILE(tile, from, !kStream && kBlocks == 2)
#define LORAMUX_PRODUCT(sum, a, b) \
  do {                             \
    if constexpr (kFloat) {        \
      _tile_dpbf16ps(sum, a, b);   \
    } else {                       \
      _tile_dpbssd(sum, a, b);     \
    }                              \
  } while (false)

// Sums of `blocks` row blocks and `panels` panels (1 or 2 each) over `steps` tiles of depth.
// `between` runs after the products of each tile of depth. Two row blocks take at most two panels,
// one takes four: four accumulators.
template <int kBlocks, int kPanels, bool kFloat, bool kStream, typename Between>
LORAMUX_INLINE void TileSteps(const uint8_t* a, int64_t a_block, int64_t a_begin, int64_t a_step,
                              const uint8_t* const (&b)[kPanelsMax], int64_t b_step, int64_t steps,
                              Between between) {
  static_assert(kBlocks * kPanels <= 4);
  // a_begin and a_step are bytes of depth within a row; 64 of them lie side by side in a tile.
  uint64_t depth = static_cast<uint64_t>(a_begin);
  const auto fetch = [&](const uint8_t* from) __attribute__((always_inline)) {
    if constexpr (kStream) FetchTile(from + kTileAhead, b_step);
  };
  for (int64_t s = 0; s < steps; ++s, depth += static_cast<uint64_t>(a_step)) {
    const uint8_t* at = a + depth / 64 * kTileBytes + depth % 64;
    const int64_t offset = s * b_step;
    fetch(b[0] + offset);
    LORAMUX_LOAD_ROWS(4, at);
    LORAMUX_LOAD_WEIGHTS(6, b[0] + offset);
    LORAMUX_PRODUCT(0, 4, 6);
    if constexpr (kPanels >= 2) {
      fetch(b[1] + offset);
      LORAMUX_LOAD_WEIGHTS(7, b[1] + offset);
      LORAMUX_PRODUCT(1, 4, 7);
    }
    if constexpr (kBlocks == 2) {
      LORAMUX_LOAD_ROWS(5, at + a_block);
      LORAMUX_PRODUCT(2, 5, 6);
      if constexpr (kPanels == 2) LORAMUX_PRODUCT(3, 5, 7);
    }
    if constexpr (kPanels == 4) {
      fetch(b[2] + offset);
      LORAMUX_LOAD_WEIGHTS(6, b[2] + offset);
      LORAMUX_PRODUCT(2, 4, 6);
      fetch(b[3] + offset);
      LORAMUX_LOAD_WEIGHTS(7, b[3] + offset);
      LORAMUX_PRODUCT(3, 4, 7);
    }
    between();
  }
}

template <int kBlocks, int kPanels>
LORAMUX_INLINE void ZeroTiles() {
  _tile_zero(0);
  if constexpr (kPanels >= 2) _tile_zero(1);
  if constexpr (kBlocks == 2 || kPanels == 4) _tile_zero(2);
  if constexpr (kBlocks * kPanels == 4) _tile_zero(3);
}
// Accumulator (block, panel) to and from [4][16][16] of 4 bytes.
template <int kBlocks, int kPanels>
LORAMUX_INLINE void StoreTiles(void* to) {
  auto* at = static_cast<char*>(to);
  _tile_stored(0, at, 64);
  if constexpr (kPanels >= 2) _tile_stored(1, at + kTileBytes, 64);
  if constexpr (kBlocks == 2 || kPanels == 4) _tile_stored(2, at + 2 * kTileBytes, 64);
  if constexpr (kBlocks * kPanels == 4) _tile_stored(3, at + 3 * kTileBytes, 64);
  LORAMUX_TILE_FENCE();
}
template <int kBlocks, int kPanels>
LORAMUX_INLINE void LoadTiles(const void* from) {
  const auto* at = static_cast<const char*>(from);
  LORAMUX_TILE_FENCE();
  _tile_loadd(0, at, 64);
  if constexpr (kPanels >= 2) _tile_loadd(1, at + kTileBytes, 64);
  if constexpr (kBlocks == 2 || kPanels == 4) _tile_loadd(2, at + 2 * kTileBytes, 64);
  if constexpr (kBlocks * kPanels == 4) _tile_loadd(3, at + 3 * kTileBytes, 64);
}

// Where the inner loops are: one, two or four panels, a chunk of rows, a range of depth.
struct Place {
  int64_t panel;
  int64_t row;       // first of the blocks at hand
  int64_t end_row;   // of the chunk
  int64_t chunk_row; // first of the chunk
  bool stream;       // fetch weights ahead of reading them
};

// Integer sums of one or two row blocks that have left the tiles and are still to be scaled and
// added to the chunk's sums. That is done a few rows at a time between the tile products of the
// blocks that follow: the tile unit would idle otherwise for half as long as the products take.
template <int kPanels, bool kGrouped>
struct Pending {
  const int32_t* tiles = nullptr;
  const float* row_scale = nullptr;
  float* sums = nullptr;
  __m512 scale[kPanelsMax] = {};
  int64_t row = 0;
  int64_t rows = 0;

  // Whether these are a chunk's sums of the first depth, and of the last: then they go to y.
  bool first = false;
  bool last = false;
  const MultiplyArgs* args = nullptr;
  const Finish* finish = nullptr;
  int64_t panel = 0;
  int64_t y_row = 0;

  template <bool kFirst, bool kLast>
  LORAMUX_INLINE_MEMBER void AddRows(int64_t end) {
    for (; row < end; ++row) {
      const auto r = static_cast<uint64_t>(row);
      const int32_t* tile = tiles + r / 16 * 2 * 256 + r % 16 * 16;
      const __m512 factor = _mm512_set1_ps(row_scale[row]);
#pragma GCC unroll 4
      for (int c = 0; c < kPanels; ++c) {
        __m512 x = _mm512_cvtepi32_ps(_mm512_load_si512(tile + c * 256));
        if constexpr (kGrouped) x = _mm512_mul_ps(x, scale[c]);
        float* at = sums + (row * SumsWidth(kPanels) + c) * kPanelColumns;
        const __m512 sum =
            _mm512_fmadd_ps(x, factor, kFirst ? _mm512_setzero_ps() : _mm512_load_ps(at));
        if constexpr (kLast) {
          StoreRow(*args, finish[c], y_row + row, (panel + c) * kPanelColumns,
                   _mm512_mul_ps(sum, finish[c].column_scale));
        } else {
          _mm512_store_ps(at, sum);
        }
      }
    }
  }
  LORAMUX_INLINE_MEMBER void Add(int64_t count) {
    const int64_t end = Min(row + count, rows);
    if (last) {
      first ? AddRows<true, true>(end) : AddRows<false, true>(end);
    } else {
      first ? AddRows<true, false>(end) : AddRows<false, false>(end);
    }
  }
};

// One inner group of one or two row blocks: integer sums over `steps` tiles of depth, which become
// the pending ones. a_begin and a_step are depths, row_scale the activations' scales.
template <int kBlocks, int kPanels, bool kGrouped>
LORAMUX_INLINE void IntGroup(const uint8_t* a, int64_t block_bytes, int64_t a_begin, int64_t a_step,
                             const uint8_t* const (&b)[kPanelsMax], int64_t steps, bool stream,
                             const float* row_scale, int64_t rows,
                             const __m512 (&scale)[kPanelsMax],
                             int32_t* tiles, float* sums, bool first, bool last, int64_t y_row,
                             Pending<kPanels, kGrouped>* pending) {
  ZeroTiles<kBlocks, kPanels>();
  const int64_t share = steps == 4 ? 8 : CeilDiv(2 * kRowsPerBlock, steps);
  const auto between = [&]() __attribute__((always_inline)) { pending->Add(share); };
  const int64_t b_step = a_step * kPanelColumns;
  if (stream) {
    TileSteps<kBlocks, kPanels, false, true>(a, block_bytes, a_begin, a_step, b, b_step, steps,
                                             between);
  } else {
    TileSteps<kBlocks, kPanels, false, false>(a, block_bytes, a_begin, a_step, b, b_step, steps,
                                              between);
  }
  pending->Add(2 * kRowsPerBlock);
  StoreTiles<kBlocks, kPanels>(tiles);
  pending->tiles = tiles;
  pending->row_scale = row_scale;
  pending->sums = sums;
  for (int c = 0; c < kPanels; ++c) pending->scale[c] = scale[c];
  pending->row = 0;
  pending->rows = rows;
  pending->first = first;
  pending->last = last;
  pending->y_row = y_row;
}

// One, two or four panels times a chunk of rows [row_begin, row_end), int8 or int4.
template <int kPanels, bool kGrouped>
void IntPanels(const MultiplyArgs& args, const Scratch& s, int64_t panel, int64_t row_begin,
               int64_t row_end, const uint8_t* fetch) {
  const Operand& operand = args.operand;
  const PackedLayout& layout = args.layout;
  const PackedShape& shape = args.weight.shape;
  const bool int4 = shape.format == PackedFormat::kInt4;
  const int64_t outer = operand.activation_group;
  const int64_t inner = shape.group > 0 ? Min(shape.group, outer) : outer;
  const int64_t step = inner < 64 ? 32 : 64;
  const uint8_t* weights = args.weight.blob + panel * layout.panel_bytes;
  Finish finish[kPanelsMax];
  for (int c = 0; c < kPanels; ++c) finish[c] = FinishOf(args, panel + c);

  const bool decode = row_end - row_begin <= kDecodeRows;
  const bool stream = decode && !int4;
  const int64_t block_bytes = BlockBytes(operand);
  const int64_t scale_stride = RowBlocks(operand) * kRowsPerBlock;
  const int64_t groups_per_panel = layout.groups;
  const auto unpack = [&](int64_t begin, int8_t* to) __attribute__((always_inline)) {
    const int64_t end = Min(begin + outer, operand.padded_k);
    for (int c = 0; c < kPanels; ++c) {
      UnpackInt4(args, panel + c, begin, end, to + c * (s.unpacked_bytes / kPanelsMax));
    }
  };

  Pending<kPanels, kGrouped> pending;
  pending.args = &args;
  pending.finish = finish;
  pending.panel = panel;
  int32_t* tiles = s.tiles;
  Fetcher fetcher(decode ? nullptr : fetch, layout.panel_bytes * kPanels,
                  CeilDiv(operand.padded_k, inner) *
                      CeilDiv(row_end - row_begin, 2 * kRowsPerBlock));
  if (int4) unpack(0, s.unpacked);
  int64_t scale_group = 0;
  for (int64_t group = 0, number = 0; group < operand.padded_k; group += outer, ++number) {
    const int64_t group_end = Min(group + outer, operand.padded_k);
    const uint8_t* b[kPanelsMax] = {};
    if (int4) {
      // One group ahead: tiles are not loaded from stores that are still on their way.
      int8_t* here = s.unpacked + (number & 1) * s.unpacked_bytes;
      int8_t* next = s.unpacked + (~number & 1) * s.unpacked_bytes;
      if (group_end < operand.padded_k) unpack(group_end, next);
      for (int c = 0; c < kPanels; ++c) {
        b[c] = reinterpret_cast<uint8_t*>(here + c * (s.unpacked_bytes / kPanelsMax));
      }
    } else {
      for (int c = 0; c < kPanels; ++c) {
        b[c] = weights + c * layout.panel_bytes + group * kPanelColumns;
      }
    }
    LORAMUX_TILE_FENCE();
    const float* row_scale = Scales(operand) + number * scale_stride + row_begin;
    for (int64_t begin = group; begin < group_end; begin += inner) {
      const int64_t end = Min(begin + inner, group_end);
      const int64_t steps = (end - begin) >> (step == 64 ? 6 : 5);
      __m512 scale[kPanelsMax] = {};
      if constexpr (kGrouped) {
        // A weight group wider than the activations' is read once per activation group.
        if (begin >= (scale_group + 1) * shape.group) ++scale_group;
        const int64_t g = Min(scale_group, groups_per_panel - 1);
        for (int c = 0; c < kPanels; ++c) {
          scale[c] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(
              args.weight.blob + layout.scales +
              ((panel + c) * groups_per_panel + g) * kPanelColumns * 2)));
        }
      }
      const bool first = begin == 0;
      const bool last = end == operand.padded_k;
      const int64_t skip = (begin - group) * kPanelColumns;
      const uint8_t* from[kPanelsMax] = {};
      for (int c = 0; c < kPanels; ++c) from[c] = b[c] + skip;
      const uint8_t* a = Tiles(operand) + row_begin / kRowsPerBlock * block_bytes;
      float* sums = s.sums;
      int64_t row = row_begin;
      if constexpr (kPanels <= 2) {
        for (; row + kRowsPerBlock < row_end; row += 2 * kRowsPerBlock) {
          fetcher.Some();
          IntGroup<2, kPanels, kGrouped>(a, block_bytes, begin, step, from, steps, stream,
                                         row_scale + (row - row_begin), Min(row_end - row, 32),
                                         scale, tiles, sums, first, last, row, &pending);
          tiles = tiles == s.tiles ? s.tiles + 4 * 256 : s.tiles;
          a += 2 * block_bytes;
          sums += 4 * kPanelColumns * kRowsPerBlock;
        }
      }
      if (row < row_end) {
        fetcher.Some();
        IntGroup<1, kPanels, kGrouped>(a, block_bytes, begin, step, from, steps, stream,
                                       row_scale + (row - row_begin), row_end - row, scale, tiles,
                                       sums, first, last, row, &pending);
        tiles = tiles == s.tiles ? s.tiles + 4 * 256 : s.tiles;
      }
    }
  }
  pending.Add(2 * kRowsPerBlock);
}

template <int kBlocks, int kPanels>
LORAMUX_INLINE void Bf16Depth(const MultiplyArgs& args, const Scratch& s, const Place& at,
                              int64_t begin, int64_t end,
                              const uint8_t* const (&b)[kPanelsMax], bool first, bool last,
                              const Finish (&finish)[kPanelsMax]) {
  const Operand& operand = args.operand;
  const int64_t block_bytes = BlockBytes(operand);
  const uint8_t* a = Tiles(operand) + at.row / kRowsPerBlock * block_bytes;
  // Sums wait as tiles: what is stored and loaded again has not changed.
  float* sums = s.sums + (at.row - at.chunk_row) * 2 * kPanelColumns;
  if (first) {
    ZeroTiles<kBlocks, kPanels>();
  } else {
    LoadTiles<kBlocks, kPanels>(sums);
  }
  const auto between = [] {};
  if (at.stream) {
    TileSteps<kBlocks, kPanels, true, true>(a, block_bytes, begin * 2, 64, b, kTileBytes,
                                            (end - begin) / 32, between);
  } else {
    TileSteps<kBlocks, kPanels, true, false>(a, block_bytes, begin * 2, 64, b, kTileBytes,
                                             (end - begin) / 32, between);
  }
  if (!last) {
    StoreTiles<kBlocks, kPanels>(sums);
    return;
  }
  StoreTiles<kBlocks, kPanels>(s.tiles);
  const int64_t rows = Min(at.end_row - at.row, kBlocks * kRowsPerBlock);
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t* tile = s.tiles + (r / 16 * 2) * 256 + r % 16 * 16;
    for (int c = 0; c < kPanels; ++c) {
      StoreRow(args, finish[c], at.row + r, (at.panel + c) * kPanelColumns,
               _mm512_load_ps(tile + c * 256));
    }
  }
}

template <int kPanels>
void Bf16Panels(const MultiplyArgs& args, const Scratch& s, int64_t panel, int64_t row_begin,
                int64_t row_end, const uint8_t* fetch) {
  const Operand& operand = args.operand;
  const PackedLayout& layout = args.layout;
  const uint8_t* weights = args.weight.blob + panel * layout.panel_bytes;
  Finish finish[kPanelsMax];
  for (int c = 0; c < kPanels; ++c) finish[c] = FinishOf(args, panel + c);
  const bool decode = row_end - row_begin <= kDecodeRows;
  const int64_t depth = kBf16Block;
  Fetcher fetcher(decode ? nullptr : fetch, layout.panel_bytes * kPanels,
                  CeilDiv(operand.padded_k, depth) *
                      CeilDiv(row_end - row_begin, 2 * kRowsPerBlock));
  for (int64_t begin = 0; begin < operand.padded_k; begin += depth) {
    const int64_t end = Min(begin + depth, operand.padded_k);
    const int64_t offset = begin * kPanelColumns * 2;
    const uint8_t* b[kPanelsMax] = {};
    for (int c = 0; c < kPanels; ++c) b[c] = weights + offset + c * layout.panel_bytes;
    const bool first = begin == 0;
    const bool last = end == operand.padded_k;
    Place at{panel, row_begin, row_end, row_begin, decode};
    if constexpr (kPanels <= 2) {
      for (; at.row + kRowsPerBlock < row_end; at.row += 2 * kRowsPerBlock) {
        fetcher.Some();
        Bf16Depth<2, kPanels>(args, s, at, begin, end, b, first, last, finish);
      }
    }
    if (at.row < row_end) {
      fetcher.Some();
      Bf16Depth<1, kPanels>(args, s, at, begin, end, b, first, last, finish);
    }
  }
}

template <int kPanels>
LORAMUX_INLINE void Panels(const MultiplyArgs& args, const Scratch& s, int64_t panel, int64_t begin,
                           int64_t end, const uint8_t* fetch) {
  if (!IsInt(args.operand)) {
    Bf16Panels<kPanels>(args, s, panel, begin, end, fetch);
  } else if (args.weight.shape.group > 0) {
    IntPanels<kPanels, true>(args, s, panel, begin, end, fetch);
  } else {
    IntPanels<kPanels, false>(args, s, panel, begin, end, fetch);
  }
}

void Multiply(const MultiplyArgs& args) {
  if (AreFewRows(args)) return MultiplyFewRows(args);
  const Operand& operand = args.operand;
  const Scratch s = ScratchOf(args);
  const int64_t inner =
      IsInt(operand) && args.weight.shape.group > 0 ? args.weight.shape.group : kDepthMultiple;
  Configure(static_cast<int>(Min(operand.rows, kRowsPerBlock)), inner < 64 ? 32 : 64);
  const int64_t begin = args.first_row;
  const int64_t end = args.last_row;
  int64_t panel = args.first_panel;
  // While weights stream, panels side by side are streams that memory serves side by side.
  for (; operand.rows <= kRowsPerBlock && panel + 3 < args.last_panel; panel += 4) {
    Panels<4>(args, s, panel, begin, end, nullptr);
  }
  for (; panel + 1 < args.last_panel; panel += 2) {
    const int64_t next = panel + 2 < args.last_panel ? panel + 2 : args.next_first;
    const bool more = panel + 2 < args.last_panel || args.next_first < args.next_last;
    const bool pair = next + 1 < args.layout.panels;
    Panels<2>(args, s, panel, begin, end,
              more && pair ? args.weight.blob + next * args.layout.panel_bytes : nullptr);
  }
  for (; panel < args.last_panel; ++panel) {
    const bool more = panel + 1 < args.last_panel;
    Panels<1>(args, s, panel, begin, end,
              more ? args.weight.blob + (panel + 1) * args.layout.panel_bytes : nullptr);
  }
  _tile_release();
  _mm_sfence();  // streamed results are seen by whoever comes after the region
}

}  // namespace

const PackedTable kTable = {OperandBytes, ScratchBytes, Prepare, Multiply, UnitPanels,
                           UnitRows};

}  // namespace loramux::packed::amx
