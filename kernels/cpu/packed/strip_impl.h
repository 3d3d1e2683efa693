// How products over packed weights are blocked on vector registers. A strip is two vectors of
// columns, two panels of AVX-512 or one of AVX2; of NEON four vectors, one panel. Few rows pass
// over a strip's whole depth, weights read as they are stored. Many rows take it in chunks, whose
// weights are brought once into the form that the tiles want and stay in the first cache while the
// rows pass. Sums are kept as floats between chunks, so a row is added up in the same order either
// way.
#pragma once

#include "cpu/packed/operand.h"
#include "cpu/packed/vector_bytes.h"

namespace loramux::packed::LORAMUX_PACKED_NS {

constexpr int kPanelVectors = static_cast<int>(kPanelColumns) / kLanes;
constexpr int kStripVectors = kPanelVectors > 2 ? kPanelVectors : 2;
constexpr int kStripPanels = kStripVectors / kPanelVectors;
constexpr int kStripColumns = kStripVectors * kLanes;
// A multiple of every inner group.
constexpr int64_t kChunkDepth = kLargestActivationGroup;
// Bytes that a tile asks for ahead of its reading.
constexpr int64_t kFetchAhead = 4096;
// Rows whose activations should stay in the second cache while strips pass by.
constexpr int64_t kRowBlockMax = 240;
constexpr int64_t kRowBlockBytes = 768 * 1024;
constexpr int64_t kRowBlockMin = 48;
// Bytes of weights of a unit of work where reading them takes the time.
constexpr int64_t kUnitBytes = 128 * 1024;

// Up to so many rows of bfloat16 read panels side by side.
constexpr int64_t kStreamRows = 4;
constexpr int64_t kStreamPanels = 4;
constexpr int kStreams = static_cast<int>(kStreamPanels) / kStripPanels;
constexpr int64_t kStreamDepth = 64;  // of one before the next has its turn

// Which scales an inner group has; steps from one group to the next without dividing.
struct GroupCursor {
  int32_t weight_steps, row_steps;  // inner groups per group
  int32_t weight_left, row_left;
  int64_t weight, row;
};

// One pass of a few rows over depth [begin, end) of a strip.
struct Tile {
  const uint8_t* weights[kStripVectors];  // of each vector, at `begin`
  // Where each vector's panel ends, and what is wanted after it: for fetching ahead.
  const uint8_t* weights_end[kStripVectors];
  const uint8_t* next[kStripVectors];
  const uint8_t* rows;  // activations of the first row, at depth 0
  int64_t row_bytes;
  // Of each vector: where a tile that expands leaves its weights.
  uint8_t* expanded[kStripVectors];
  int64_t begin, end;
  float* sums;  // [rows][kStripColumns], read where begin > 0, written
  // Formats with levels.
  const float* row_scales;  // [rows][row_groups]
  int64_t row_groups;
  const int32_t* level_sums;  // [rows][level_sum_stride]
  int64_t level_sum_stride;
  const int16_t* starts;  // [rows][start_stride], of products in 16 bits
  int64_t start_stride;
  const uint8_t* scales[kStripVectors];  // float16, of the panel's first group; null without groups
  const uint8_t* zeros[kStripVectors];   // int8 likewise; null: all the same, known to the tile
  int32_t inner, group, activation_group;
  GroupCursor cursor;  // at `begin`
};
typedef void (*TileFunction)(const Tile& tile);

// Rows of tiles, largest first; the last is 1.
template <int kSizes>
struct TileSet {
  int64_t rows[kSizes];
  TileFunction direct[kSizes];  // weights as stored
  // Many rows: the first tile of a chunk brings the weights into a form that saves the others work.
  // Null: every tile reads what is stored.
  TileFunction expanding;         // of rows[0]
  TileFunction expanded[kSizes];  // weights as `expanding` leaves them
  int64_t expanded_bytes;         // per depth and panel
  int64_t direct_rows;            // at least rows[0]: up to so many take the weights as stored
};

// Where prefetches go: on in the same panel, then into what follows it.
LORAMUX_INLINE const uint8_t* Ahead(const Tile& tile, int vector, const uint8_t* at) {
  const int64_t left = tile.weights_end[vector] - at;
  return left > kFetchAhead ? at + kFetchAhead : tile.next[vector] + (kFetchAhead - left);
}
LORAMUX_INLINE void Fetch(const uint8_t* at) {
  __builtin_prefetch(at, 0, 3);
}

LORAMUX_INLINE GroupCursor CursorAt(const Tile& tile) {
  GroupCursor c;
  const int32_t group = tile.group > 0 ? tile.group : tile.inner;
  c.weight_steps = group / tile.inner;
  c.row_steps = tile.activation_group / tile.inner;
  c.weight = tile.begin / group;
  c.row = tile.begin / tile.activation_group;
  c.weight_left = c.weight_steps - static_cast<int32_t>(tile.begin % group) / tile.inner;
  c.row_left =
      c.row_steps - static_cast<int32_t>(tile.begin % tile.activation_group) / tile.inner;
  return c;
}
LORAMUX_INLINE void Step(GroupCursor* c) {
  if (--c->weight_left == 0) c->weight_left = c->weight_steps, ++c->weight;
  if (--c->row_left == 0) c->row_left = c->row_steps, ++c->row;
}

// Minus the zero points times the row's levels: what an inner group's sum starts with. Two
// vectors of a strip; 1 << kZeroBits is the zero point where there are none of their own.
LORAMUX_INLINE VB MinusLevels(const Tile& tile, int row, int64_t begin, int64_t end) {
  const int32_t* sums = tile.level_sums + row * tile.level_sum_stride;
  return SubInts(RepeatInt(sums + begin / kSumBlock), RepeatInt(sums + end / kSumBlock));
}
LORAMUX_INLINE VB Zeros(const Tile& tile, const GroupCursor& c, int vector) {
  return LoadSignedBytesAsInts(tile.zeros[vector] + c.weight * kPanelColumns);
}
template <int kRows, int kZeroBits, int kVector = 0>
LORAMUX_INLINE void StartSums(const Tile& tile, const GroupCursor& c, int64_t begin, int64_t end,
                              VB (&dot)[kRows][2]) {
  if (tile.zeros[0] == nullptr) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      dot[r][0] = dot[r][1] = ShiftLeft<kZeroBits>(MinusLevels(tile, r, begin, end));
    }
  } else {
    const VB zeros0 = Zeros(tile, c, kVector);
    const VB zeros1 = Zeros(tile, c, kVector + 1);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const VB minus = MinusLevels(tile, r, begin, end);
      dot[r][0] = MulInts(zeros0, minus);
      dot[r][1] = MulInts(zeros1, minus);
    }
  }
}

// 1 where a column has no scales of groups: multiplying by it changes nothing.
LORAMUX_INLINE VF GroupScale(const Tile& tile, const GroupCursor& c, int vector) {
  if (tile.scales[vector] == nullptr) return Set1(1.0f);
  return WidenF16(LoadHalves(tile.scales[vector] + c.weight * kPanelColumns * 2));
}
// An inner group's sums of two vectors of a strip into the running ones, in the order that
// packed_linear.h fixes. Running sums live in memory, in the first cache: registers are for the
// products.
LORAMUX_INLINE void AddProduct(VF product, VF row_scale, float* sum) {
  Store(sum, Fma(product, row_scale, Load(sum)));
}
template <int kRows, int kVector = 0>
LORAMUX_INLINE void AddGroup(const Tile& tile, const GroupCursor& c, const VB (&dot)[kRows][2]) {
  const float* row_scales = tile.row_scales + c.row;
  float* sums = tile.sums + kVector * kLanes;
  const int64_t stride = tile.row_groups;
  const VF scale0 = GroupScale(tile, c, kVector);
  const VF scale1 = GroupScale(tile, c, kVector + 1);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const VF row_scale = Set1(row_scales[r * stride]);
    AddProduct(IntsToFloats(dot[r][0]) * scale0, row_scale, sums + r * kStripColumns);
    AddProduct(IntsToFloats(dot[r][1]) * scale1, row_scale, sums + r * kStripColumns + kLanes);
  }
}
LORAMUX_INLINE void ClearSums(const Tile& tile, int rows) {
  if (tile.begin > 0) return;
  for (int i = 0; i < rows * kStripVectors; ++i) Store(tile.sums + i * kLanes, Zero());
}
LORAMUX_INLINE int64_t RowBytes(const Operand& operand, int64_t element) {
  return operand.padded_k * element + kRowPadBytes;
}
LORAMUX_INLINE int64_t RowBlock(const Operand& operand, int64_t element) {
  const int64_t fit = kRowBlockBytes / RowBytes(operand, element);
  return MinOf(kRowBlockMax, MaxOf(kRowBlockMin, fit / kRowBlockMin * kRowBlockMin));
}

// Columns of a strip that exist: sum * column scale + bias + residual.
LORAMUX_INLINE void FinishStrip(const MultiplyArgs& args, int64_t panel, int64_t first_row,
                                int64_t count, const float* sums) {
  const int64_t first = panel * kPanelColumns;
  const int64_t n = MinOf(args.weight.shape.n, args.last_panel * kPanelColumns);
  const float* scales = reinterpret_cast<const float*>(args.weight.blob + args.layout.column_scale);
  for (int v = 0; v < kStripVectors; ++v) {
    const int64_t column = first + v * kLanes;
    const int width = static_cast<int>(MinOf<int64_t>(kLanes, n - column));
    if (width <= 0) break;
    const VF scale = args.layout.column_scale > 0 ? Load(scales + column) : Zero();
    const VF bias = args.bias != nullptr ? LoadN(args.bias + column, width) : Zero();
    for (int64_t r = 0; r < count; ++r) {
      const int64_t at = (first_row + r) * args.y_stride + column;
      VF y = Load(sums + r * kStripColumns + v * kLanes);
      if (args.layout.column_scale > 0) y = y * scale;
      if (args.bias != nullptr) y = y + bias;
      if (args.residual != nullptr) y = y + LoadN(args.residual + at, width);
      StoreN(args.y + at, y, width);
    }
  }
}

template <int kSizes>
LORAMUX_INLINE int64_t StripScratch(const TileSet<kSizes>& set) {
  return kRowBlockMax * kStripColumns * static_cast<int64_t>(sizeof(float)) +
         kStripPanels * kChunkDepth * set.expanded_bytes;
}

LORAMUX_INLINE void SkipRows(Tile* tile, int64_t rows) {
  tile->rows += rows * tile->row_bytes;
  tile->row_scales += rows * tile->row_groups;
  tile->level_sums += rows * tile->level_sum_stride;
  tile->starts += rows * tile->start_stride;
  tile->sums += rows * kStripColumns;
}
// Depth [begin, end) of `count` rows, which the tile has passed then.
template <int kSizes>
LORAMUX_INLINE void PassRows(const TileSet<kSizes>& set, const TileFunction* functions, Tile* tile,
                             int64_t count) {
  int size = 0;
  while (count > 0) {
    while (set.rows[size] > count) ++size;
    functions[size](*tile);
    SkipRows(tile, set.rows[size]);
    count -= set.rows[size];
  }
}
// The same, weights expanded on the way.
template <int kSizes>
LORAMUX_INLINE void ExpandAndPassRows(const TileSet<kSizes>& set, Tile* tile, int64_t count) {
  set.expanding(*tile);
  SkipRows(tile, set.rows[0]);
  for (int v = 0; v < kStripVectors; ++v) tile->weights[v] = tile->expanded[v];
  PassRows(set, set.expanded, tile, count - set.rows[0]);
}

// Points a tile at the strip that begins with `panel`; `after` is the panel that is wanted next.
LORAMUX_INLINE void SetStrip(const MultiplyArgs& args, int64_t panel, int64_t after, Tile* tile) {
  const PackedLayout& layout = args.layout;
  for (int v = 0; v < kStripVectors; ++v) {
    // The second of a strip's panels may not exist: the first is computed twice then.
    const int64_t ahead = v / kPanelVectors;
    const int64_t p = panel + ahead < args.last_panel ? panel + ahead : panel;
    const int64_t columns = v % kPanelVectors * kLanes;
    tile->weights[v] = args.weight.blob + p * layout.panel_bytes + columns * 4;
    tile->weights_end[v] = args.weight.blob + (p + 1) * layout.panel_bytes;
    tile->next[v] = args.weight.blob + MinOf(after + ahead, layout.panels - 1) * layout.panel_bytes;
    const int64_t cell = p * layout.groups * kPanelColumns + columns;
    tile->scales[v] = layout.groups > 0 ? args.weight.blob + layout.scales + cell * 2 : nullptr;
    tile->zeros[v] = layout.zeros > 0 ? args.weight.blob + layout.zeros + cell : nullptr;
  }
}

// Few rows, bound by reading: several strips side by side, a little depth of each in turn, because
// one or two streams do not fill the memory's queues. Of bfloat16 only: with groups, starting a
// tile for so little depth costs more than it wins.
template <int kSizes>
LORAMUX_INLINE void StreamStrips(const MultiplyArgs& args, const TileSet<kSizes>& set,
                                 const Tile& first) {
  const int64_t depth = args.layout.padded_k;
  const int64_t depth_bytes = args.layout.panel_bytes / depth * 64;  // of 64 deep
  const int64_t rows = args.operand.rows;
  float* sums = static_cast<float*>(args.scratch);
  for (int64_t panel = args.first_panel; panel < args.last_panel; panel += kStreamPanels) {
    Tile tiles[kStreams];
    int streams = 0;
    for (; streams < kStreams && panel + streams * kStripPanels < args.last_panel; ++streams) {
      int64_t after = panel + streams * kStripPanels + kStreamPanels;
      if (after >= args.last_panel && args.next_first < args.next_last) {
        after += args.next_first - args.last_panel;
      }
      tiles[streams] = first;
      SetStrip(args, panel + streams * kStripPanels, after, &tiles[streams]);
      tiles[streams].sums = sums + streams * rows * kStripColumns;
    }
    for (int64_t begin = 0; begin < depth; begin += kStreamDepth) {
      const int64_t end = MinOf(begin + kStreamDepth, depth);
      for (int i = 0; i < streams; ++i) {
        tiles[i].begin = begin;
        tiles[i].end = end;
        PassRows(set, set.direct, &tiles[i], rows);
        SkipRows(&tiles[i], -rows);
        for (int v = 0; v < kStripVectors; ++v) {
          tiles[i].weights[v] += (end - begin) / 64 * depth_bytes;
        }
      }
    }
    for (int i = 0; i < streams; ++i) {
      FinishStrip(args, panel + i * kStripPanels, 0, rows, tiles[i].sums);
    }
  }
}

// The panels of a call, each with all rows. `tile` holds what all have in common, rows at row 0.
template <int kSizes>
LORAMUX_INLINE void MultiplyStrips(const MultiplyArgs& args, const TileSet<kSizes>& set, Tile tile,
                                   int64_t row_block) {
  const PackedLayout& layout = args.layout;
  const int64_t depth = layout.padded_k;
  const int64_t depth_bytes = layout.panel_bytes / depth * 64;  // of 64 deep
  const int64_t rows = args.operand.rows;
  if (rows <= kStreamRows && tile.inner == 0) return StreamStrips(args, set, tile);
  const bool expand = set.expanding != nullptr && rows > set.direct_rows;
  const int64_t chunk = rows > set.direct_rows ? kChunkDepth : depth;
  float* sums = static_cast<float*>(args.scratch);
  uint8_t* expanded = static_cast<uint8_t*>(args.scratch) +
                      kRowBlockMax * kStripColumns * static_cast<int64_t>(sizeof(float));
  for (int v = 0; v < kStripVectors; ++v) {
    tile.expanded[v] = expanded + v / kPanelVectors * kChunkDepth * set.expanded_bytes +
                       v % kPanelVectors * kLanes * 4;
  }
  tile.sums = sums;
  for (int64_t row = 0; row < rows; row += row_block) {
    const int64_t count = MinOf(row_block, rows - row);
    for (int64_t panel = args.first_panel; panel < args.last_panel; panel += kStripPanels) {
      int64_t after = panel + kStripPanels;
      if (after >= args.last_panel && args.next_first < args.next_last) after = args.next_first;
      for (int64_t begin = 0; begin < depth; begin += chunk) {
        SetStrip(args, panel, after, &tile);
        for (int v = 0; v < kStripVectors; ++v) tile.weights[v] += begin / 64 * depth_bytes;
        tile.begin = begin;
        tile.end = MinOf(begin + chunk, depth);
        if (tile.inner > 0) tile.cursor = CursorAt(tile);
        if (expand && count > set.rows[0]) {
          ExpandAndPassRows(set, &tile, count);
        } else {
          PassRows(set, set.direct, &tile, count);
        }
        SkipRows(&tile, -count);
      }
      FinishStrip(args, panel, row, count, sums);
    }
    SkipRows(&tile, count);
    tile.sums = sums;
  }
}

LORAMUX_INLINE Tile IntTile(const MultiplyArgs& args) {
  const IntRows rows = IntRowsOf(args.operand);
  Tile tile = {};
  tile.rows = reinterpret_cast<const uint8_t*>(rows.levels);
  tile.row_bytes = rows.stride;
  tile.row_scales = rows.scales;
  tile.row_groups = rows.groups;
  tile.level_sums = rows.sums;
  tile.level_sum_stride = rows.sum_stride;
  tile.activation_group = args.operand.activation_group;
  tile.group = args.weight.shape.group;
  tile.inner = InnerGroup(args.weight.shape, args.operand.activation_group);
  return tile;
}

}  // namespace loramux::packed::LORAMUX_PACKED_NS
