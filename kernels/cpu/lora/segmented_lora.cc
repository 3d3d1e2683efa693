// Cuts SegmentedLora into units of like cost and runs them. A piece is a part of one segment: a
// block of its rows times a part of the adapter. A unit is a run of pieces, so that many small ones
// (low ranks, narrow modules) do not cost a hand-over each.
#include "loramux/segmented_lora.h"

#include "cpu/kernel_table.h"
#include "cpu/work_queue.h"

namespace loramux {
namespace {

using isa_scalar::CeilDiv;
using isa_scalar::MinOf;
using lora::ExpandPiece;
using lora::kRowBlock;
using lora::ShrinkPiece;

// Cost of a unit: bytes of weights, or as many as are read in the time of its arithmetic.
constexpr int64_t kUnitCost = 32 * 1024;
constexpr int64_t kMultiplyAddsPerByte = 8;
constexpr int64_t kAlignment = 64;

// How one segment is cut. Pieces are numbered row block by row block.
struct SegmentShape {
  int64_t segment = 0;
  int64_t rows = 0;
  int64_t shrink_cut = 0;  // ranks of a piece
  int64_t expand_cut = 0;  // columns of a piece
  int64_t shrink_parts = 0, expand_parts = 0;
  int64_t h_offset = 0;

  int64_t Pieces(bool expand) const {
    return CeilDiv(rows, kRowBlock) * (expand ? expand_parts : shrink_parts);
  }
};

struct UnitStart {
  int32_t shape = 0;
  int32_t piece = 0;
};

SegmentShape Measure(const LoraSegment& s, int64_t out) {
  SegmentShape shape;
  shape.rows = s.rank > 0 && s.end > s.begin ? s.end - s.begin : 0;
  if (shape.rows == 0) return shape;
  // Small parts for short segments: few adapters with few rows each still fill all threads.
  shape.shrink_cut = shape.rows >= kRowBlock ? 32 : 8;
  shape.expand_cut = shape.rows >= kRowBlock ? 256 : 1024;
  shape.shrink_parts = CeilDiv(s.rank, shape.shrink_cut);
  shape.expand_parts = CeilDiv(out, shape.expand_cut);
  return shape;
}

int64_t PieceCost(const SegmentedLoraArgs& args, const SegmentShape& shape, bool expand) {
  const LoraSegment& s = args.segments[shape.segment];
  const int64_t weights =
      expand ? s.rank * MinOf(shape.expand_cut, args.out)
             : MinOf<int64_t>(shape.shrink_cut, s.rank) * args.in;
  return weights * static_cast<int64_t>(sizeof(float)) +
         weights * MinOf(kRowBlock, shape.rows) / kMultiplyAddsPerByte;
}

// Fills starts[0 .. units], the last one being the end of all pieces, and returns the units.
int64_t CutUnits(const SegmentedLoraArgs& args, const SegmentShape* shapes, int32_t count,
                 bool expand, UnitStart* starts) {
  int64_t units = 0;
  int64_t cost = kUnitCost;
  for (int32_t i = 0; i < count; ++i) {
    const int64_t piece_cost = PieceCost(args, shapes[i], expand);
    const int64_t pieces = shapes[i].Pieces(expand);
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
  for (int64_t i = 0; i < args.num_segments; ++i) {
    const SegmentShape shape = Measure(args.segments[i], args.out);
    if (shape.rows == 0) continue;
    ++shapes;
    shrink += shape.Pieces(false);
    expand += shape.Pieces(true);
    floats += shape.rows * args.segments[i].rank;
  }
  Layout layout;
  if (shapes == 0) return layout;
  const auto starts = static_cast<int64_t>(sizeof(UnitStart));
  layout.shrink_starts = Aligned(shapes * static_cast<int64_t>(sizeof(SegmentShape)));
  layout.expand_starts = layout.shrink_starts + Aligned(shrink * starts);
  layout.h = layout.expand_starts + Aligned(expand * starts);
  layout.bytes = layout.h + Aligned(floats * static_cast<int64_t>(sizeof(float)));
  return layout;
}

const lora::LoraKernels& KernelsOf(const SegmentedLoraPlan& plan) {
  return KernelsFor(plan.isa).lora_f32;
}

void RunShrinkPiece(const SegmentedLoraPlan& plan, const SegmentShape& shape, int64_t index) {
  const SegmentedLoraArgs& args = plan.args;
  const LoraSegment& s = args.segments[shape.segment];
  const int64_t row = index / shape.shrink_parts * kRowBlock;
  const int64_t first = index % shape.shrink_parts * shape.shrink_cut;
  ShrinkPiece piece;
  piece.segment = &s;
  piece.x = args.x + (s.begin + row) * args.x_stride;
  piece.x_stride = args.x_stride;
  piece.rows = MinOf(kRowBlock, shape.rows - row);
  piece.in = args.in;
  piece.first = first;
  piece.last = MinOf<int64_t>(s.rank, first + shape.shrink_cut);
  piece.h = plan.h + shape.h_offset + row * s.rank;
  KernelsOf(plan).shrink(piece);
}

void RunExpandPiece(const SegmentedLoraPlan& plan, const SegmentShape& shape, int64_t index) {
  const SegmentedLoraArgs& args = plan.args;
  const LoraSegment& s = args.segments[shape.segment];
  const int64_t row = index / shape.expand_parts * kRowBlock;
  const int64_t first = index % shape.expand_parts * shape.expand_cut;
  ExpandPiece piece;
  piece.segment = &s;
  piece.h = plan.h + shape.h_offset + row * s.rank;
  piece.rows = MinOf(kRowBlock, shape.rows - row);
  piece.out = args.out;
  piece.first = first;
  piece.last = MinOf(args.out, first + shape.expand_cut);
  piece.y = args.y + (s.begin + row) * args.y_stride;
  piece.y_stride = args.y_stride;
  KernelsOf(plan).expand(piece);
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
    for (int64_t piece = begin; piece < end; ++piece) run(plan, shapes[i], piece);
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
  int64_t floats = 0;
  for (int64_t i = 0; i < args.num_segments; ++i) {
    SegmentShape shape = Measure(args.segments[i], args.out);
    if (shape.rows == 0) continue;
    shape.segment = i;
    shape.h_offset = floats;
    floats += shape.rows * args.segments[i].rank;
    shapes[count++] = shape;
  }
  plan.shrink_cost = floats * args.in;
  plan.expand_cost = floats * args.out;
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
