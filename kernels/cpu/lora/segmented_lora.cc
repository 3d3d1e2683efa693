// Cuts SegmentedLora into units of like cost and runs them. A piece is a part of one segment: a
// block of its rows times a part of the adapter. A unit is a run of pieces, so that many small ones
// (low ranks, narrow modules) do not cost a hand-over each. Segments with the same rows are a
// chain: an expand piece is of all its segments, one after another, so that units never collide.
#include "loramux/segmented_lora.h"

#include "cpu/kernel_table.h"
#include "cpu/work_queue.h"

namespace loramux {
namespace {

using isa_scalar::CeilDiv;
using isa_scalar::MaxOf;
using isa_scalar::MinOf;
using lora::ExpandPiece;
using lora::kRowBlock;
using lora::ShrinkPiece;

// Cost of a unit: bytes of weights, or as many as are read in the time of its arithmetic.
constexpr int64_t kUnitCost = 32 * 1024;
constexpr int64_t kMultiplyAddsPerByte = 8;
constexpr int64_t kAlignment = 64;

// How one segment is cut. Pieces are numbered row block by row block. A shrink piece is a panel of
// ranks times a chunk of inputs, an expand piece is a range of columns.
struct SegmentShape {
  int64_t segment = 0;
  int64_t rows = 0;
  int64_t row_block = 1;
  int64_t chain = 1;  // segments whose expand pieces are cut here; 0: those of an earlier one are
  int64_t expand_rows = 1;  // the smallest row_block of the chain
  int64_t panel = 0;  // ranks
  int64_t panels = 0;
  int64_t chunk = 0;  // inputs
  int64_t chunks = 0;
  int64_t columns = 0;
  int64_t column_parts = 0;
  int64_t h_offset = 0;  // floats; h is [chunks, rows, rank]

  int64_t Parts(bool expand) const { return expand ? column_parts : panels * chunks; }
  int64_t RowBlock(bool expand) const { return expand ? expand_rows : row_block; }
  int64_t Pieces(bool expand) const {
    return expand && chain == 0 ? 0 : CeilDiv(rows, RowBlock(expand)) * Parts(expand);
  }
};

struct UnitStart {
  int32_t shape = 0;
  int32_t piece = 0;
};

int64_t ElementBytes(LoraDtype dtype) {
  return dtype == LoraDtype::kF32 ? 4 : dtype == LoraDtype::kBf16 ? 2 : 1;
}

SegmentShape Measure(const SegmentedLoraArgs& args, const LoraSegment& s) {
  SegmentShape shape;
  shape.rows = s.rank > 0 && s.end > s.begin ? s.end - s.begin : 0;
  if (shape.rows == 0) return shape;
  if (s.dtype != LoraDtype::kF32) {
    const int64_t padded_rank = CeilDiv(s.rank, 64) * 64;
    shape.row_block = MinOf(lora::kRowBlockNarrow, lora::kPieceH / padded_rank);
    shape.panel = kLoraPanel;
    shape.chunk = lora::kChunkInputs;
    const int64_t columns = kUnitCost / (ElementBytes(s.dtype) * s.rank);
    shape.columns = MaxOf<int64_t>(1, columns / kLoraPanel) * kLoraPanel;
  } else {
    // Small parts for short segments: few adapters with few rows each still fill all threads.
    const bool is_long = shape.rows >= kRowBlock;
    shape.row_block = kRowBlock;
    shape.panel = is_long ? 32 : 8;
    shape.chunk = args.in;
    shape.columns = is_long ? 256 : 1024;
  }
  shape.expand_rows = shape.row_block;
  shape.panels = CeilDiv(s.rank, shape.panel);
  shape.chunks = CeilDiv(args.in, shape.chunk);
  shape.column_parts = CeilDiv(args.out, shape.columns);
  return shape;
}

bool HaveSameRows(const LoraSegment& a, const LoraSegment& b) {
  return a.begin == b.begin && a.end == b.end;
}

// Takes the next segment with the same rows into the chain that begins with `first`. Its pieces are
// cut as the finest of the chain needs; all multiples of a panel are columns to cut at.
void Join(const SegmentedLoraArgs& args, SegmentShape* first, SegmentShape* next) {
  ++first->chain;
  next->chain = 0;
  first->expand_rows = MinOf(first->expand_rows, next->row_block);
  first->columns = MinOf(first->columns, next->columns);
  first->column_parts = CeilDiv(args.out, first->columns);
}

// Bytes that are read, and the time of the arithmetic as bytes.
int64_t CostOf(const LoraSegment& s, int64_t weights, int64_t rows) {
  return weights * ElementBytes(s.dtype) + weights * rows / kMultiplyAddsPerByte;
}

// Of a shrink piece, or of an expand piece with the rest of the chain.
int64_t PieceCost(const SegmentedLoraArgs& args, const SegmentShape* shape, bool expand) {
  if (!expand) {
    const LoraSegment& s = args.segments[shape->segment];
    const int64_t weights = MinOf<int64_t>(shape->panel, s.rank) * MinOf(shape->chunk, args.in);
    return CostOf(s, weights, MinOf(shape->row_block, shape->rows));
  }
  int64_t cost = 0;
  for (int64_t i = 0; i < shape->chain; ++i) {
    const LoraSegment& s = args.segments[shape[i].segment];
    cost += CostOf(s, s.rank * MinOf(shape->columns, args.out),
                   MinOf(shape->expand_rows, shape->rows));
  }
  return cost;
}

// Fills starts[0 .. units], the last one being the end of all pieces, and returns the units.
int64_t CutUnits(const SegmentedLoraArgs& args, const SegmentShape* shapes, int32_t count,
                 bool expand, UnitStart* starts) {
  int64_t units = 0;
  int64_t cost = kUnitCost;
  for (int32_t i = 0; i < count; ++i) {
    const int64_t pieces = shapes[i].Pieces(expand);
    if (pieces == 0) continue;
    const int64_t piece_cost = PieceCost(args, shapes + i, expand);
    for (int64_t piece = 0; piece < pieces; ++piece) {
      if (cost + piece_cost > kUnitCost) {
        starts[units++] = {i, static_cast<int32_t>(piece)};
        cost = 0;
      }
      cost += piece_cost;
    }
  }
  starts[units] = {count, 0};
  return units;
}

int64_t Aligned(int64_t bytes) { return CeilDiv(bytes, kAlignment) * kAlignment; }

// Where the tables lie in the workspace, bytes.
struct Layout {
  int64_t shrink_starts = 0, expand_starts = 0, h = 0, bytes = 0;
};

Layout MeasureWorkspace(const SegmentedLoraArgs& args) {
  int64_t shapes = 0, shrink = 1, expand = 1, floats = 0;
  SegmentShape first;  // of the chain that is being measured
  for (int64_t i = 0; i < args.num_segments; ++i) {
    SegmentShape shape = Measure(args, args.segments[i]);
    if (shape.rows == 0) continue;
    shape.segment = i;
    ++shapes;
    shrink += shape.Pieces(false);
    floats += shape.chunks * shape.rows * args.segments[i].rank;
    if (first.rows > 0 && HaveSameRows(args.segments[first.segment], args.segments[i])) {
      Join(args, &first, &shape);
    } else {
      expand += first.Pieces(true);
      first = shape;
    }
  }
  expand += first.Pieces(true);
  Layout layout;
  if (shapes == 0) return layout;
  const auto starts = static_cast<int64_t>(sizeof(UnitStart));
  layout.shrink_starts = Aligned(shapes * static_cast<int64_t>(sizeof(SegmentShape)));
  layout.expand_starts = layout.shrink_starts + Aligned(shrink * starts);
  layout.h = layout.expand_starts + Aligned(expand * starts);
  layout.bytes = layout.h + Aligned(floats * static_cast<int64_t>(sizeof(float)));
  return layout;
}

const lora::LoraKernels& KernelsOf(Isa isa, LoraDtype dtype) {
#if defined(LORAMUX_HAVE_X86_ISAS)
  if (dtype != LoraDtype::kF32 && isa >= Isa::kAmx) {
    return dtype == LoraDtype::kBf16 ? lora::amx::kBf16Kernels : lora::amx::kI8Kernels;
  }
#endif
  const KernelTable& kernels = KernelsFor(isa);
  return dtype == LoraDtype::kF32    ? kernels.lora_f32
         : dtype == LoraDtype::kBf16 ? kernels.lora_bf16
                                     : kernels.lora_i8;
}

void RunShrinkPiece(const SegmentedLoraPlan& plan, const SegmentShape* shape, int64_t index) {
  const SegmentedLoraArgs& args = plan.args;
  const LoraSegment& s = args.segments[shape->segment];
  const int64_t row = index / shape->Parts(false) * shape->row_block;
  const int64_t part = index % shape->Parts(false);
  const int64_t chunk = part % shape->chunks;
  ShrinkPiece piece;
  piece.segment = &s;
  piece.x = args.x + (s.begin + row) * args.x_stride;
  piece.x_stride = args.x_stride;
  piece.rows = MinOf(shape->row_block, shape->rows - row);
  piece.in = args.in;
  piece.first_rank = part / shape->chunks * shape->panel;
  piece.last_rank = MinOf<int64_t>(s.rank, piece.first_rank + shape->panel);
  piece.first_in = chunk * shape->chunk;
  piece.last_in = MinOf(args.in, piece.first_in + shape->chunk);
  piece.h = plan.h + shape->h_offset + (chunk * shape->rows + row) * s.rank;
  KernelsOf(plan.isa, s.dtype).shrink(piece);
}

void RunExpandPiece(const SegmentedLoraPlan& plan, const SegmentShape* shape, int64_t index) {
  const SegmentedLoraArgs& args = plan.args;
  const int64_t row = index / shape->Parts(true) * shape->expand_rows;
  ExpandPiece piece;
  piece.rows = MinOf(shape->expand_rows, shape->rows - row);
  piece.out = args.out;
  piece.first = index % shape->Parts(true) * shape->columns;
  piece.last = MinOf(args.out, piece.first + shape->columns);
  piece.y = args.y + (args.segments[shape->segment].begin + row) * args.y_stride;
  piece.y_stride = args.y_stride;
  for (int64_t i = 0; i < shape->chain; ++i) {
    const SegmentShape& part = shape[i];
    const LoraSegment& s = args.segments[part.segment];
    piece.segment = &s;
    piece.h = plan.h + part.h_offset + row * s.rank;
    piece.chunks = part.chunks;
    piece.chunk_stride = part.rows * s.rank;
    KernelsOf(plan.isa, s.dtype).expand(piece);
  }
}

template <typename RunPiece>
void RunUnit(const SegmentedLoraPlan& plan, const void* starts, int64_t unit, bool expand,
             RunPiece&& run) {
  const auto* shapes = static_cast<const SegmentShape*>(plan.shapes);
  const UnitStart* range = static_cast<const UnitStart*>(starts) + unit;
  for (int32_t i = range[0].shape; i <= range[1].shape; ++i) {
    const int64_t begin = i == range[0].shape ? range[0].piece : 0;
    // The entry past the last shape has piece 0 and is not read.
    const int64_t end = i == range[1].shape ? range[1].piece : shapes[i].Pieces(expand);
    for (int64_t piece = begin; piece < end; ++piece) run(plan, shapes + i, piece);
  }
}

}  // namespace

int64_t SegmentedLoraWorkspace(const SegmentedLoraArgs& args) {
  return MeasureWorkspace(args).bytes;
}

SegmentedLoraPlan PlanSegmentedLora(const SegmentedLoraArgs& args, Isa isa) {
  SegmentedLoraPlan plan;
  const Layout layout = MeasureWorkspace(args);
  if (layout.bytes == 0) return plan;
  plan.args = args;
  plan.isa = isa;
  auto* base = static_cast<char*>(args.workspace);
  auto* shapes = reinterpret_cast<SegmentShape*>(base);
  auto* shrink_starts = reinterpret_cast<UnitStart*>(base + layout.shrink_starts);
  auto* expand_starts = reinterpret_cast<UnitStart*>(base + layout.expand_starts);
  int32_t count = 0;
  int32_t first = 0;  // of the chain that is being measured
  int64_t floats = 0;
  for (int64_t i = 0; i < args.num_segments; ++i) {
    SegmentShape shape = Measure(args, args.segments[i]);
    if (shape.rows == 0) continue;
    shape.segment = i;
    shape.h_offset = floats;
    const int64_t elements = shape.rows * args.segments[i].rank;
    floats += shape.chunks * elements;
    plan.shrink_cost += elements * args.in;
    plan.expand_cost += elements * args.out;
    if (count > 0 && HaveSameRows(args.segments[shapes[first].segment], args.segments[i])) {
      Join(args, &shapes[first], &shape);
    } else {
      first = count;
    }
    shapes[count++] = shape;
  }
  plan.shrink_units = CutUnits(args, shapes, count, false, shrink_starts);
  plan.expand_units = CutUnits(args, shapes, count, true, expand_starts);
  plan.shapes = shapes;
  plan.shrink_starts = shrink_starts;
  plan.expand_starts = expand_starts;
  plan.h = reinterpret_cast<float*>(base + layout.h);
  return plan;
}

void SegmentedLoraShrinkUnit(const SegmentedLoraPlan& plan, int64_t unit) {
  RunUnit(plan, plan.shrink_starts, unit, false, RunShrinkPiece);
}

void SegmentedLoraExpandUnit(const SegmentedLoraPlan& plan, int64_t unit) {
  RunUnit(plan, plan.expand_starts, unit, true, RunExpandPiece);
}

void SegmentedLora(const SegmentedLoraArgs& args, const Parallel& parallel, Isa isa) {
  using isa_scalar::RunUnits;
  using isa_scalar::WorkersFor;
  const SegmentedLoraPlan plan = PlanSegmentedLora(args, isa);
  RunUnits(parallel, plan.shrink_units, WorkersFor(parallel, plan.shrink_cost),
           [&](int64_t, auto next) {
             for (int64_t unit = next(); unit >= 0; unit = next()) {
               SegmentedLoraShrinkUnit(plan, unit);
             }
           });
  RunUnits(parallel, plan.expand_units, WorkersFor(parallel, plan.expand_cost),
           [&](int64_t, auto next) {
             for (int64_t unit = next(); unit >= 0; unit = next()) {
               SegmentedLoraExpandUnit(plan, unit);
             }
           });
}

}  // namespace loramux
