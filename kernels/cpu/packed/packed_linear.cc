// Drives packed linear layers: which rows and which panels are one unit of work.
#include "loramux/packed_linear.h"

#include <cstring>

#include "cpu/kernel_table.h"
#include "cpu/packed/packed_plan.h"
#include "cpu/packed/packed_table.h"

namespace loramux {
namespace {

constexpr int64_t kAlign = 64;
// Rows are prepared in units of a whole block, or when they are few of so many that several threads
// have some: the weights wait for them.
constexpr int64_t kFewPreparedRows = 4;
constexpr int64_t kManyRows = 64;

int64_t Aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }
int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool IsRotated(const PackedLinearArgs& args) { return args.parts[0].weight.shape.rotated; }

packed::Operand OperandOf(const PackedLinearArgs& args) {
  packed::Operand operand;
  operand.format = args.parts[0].weight.shape.format;
  operand.rows = args.rows;
  operand.padded_k = LayoutOf(args.parts[0].weight.shape).padded_k;
  // Rotation fills the padded depth.
  operand.k = IsRotated(args) ? operand.padded_k : args.k;
  operand.activation_group = args.activation_group;
  return operand;
}

struct Workspace {
  int64_t operand = 0;         // bytes, at offset 0
  int64_t row_scratch = 0;     // bytes per worker: rows after the prologue
  int64_t multiply_scratch = 0;
  int64_t worker = 0;          // the larger of the two
};

Workspace Measure(const PackedLinearArgs& args, const packed::PackedTable& table) {
  Workspace w;
  const packed::Operand operand = OperandOf(args);
  w.operand = Aligned(table.operand_bytes(operand));
  if (args.prologue != Prologue::kNone || IsRotated(args)) {
    w.row_scratch = Aligned(packed::kRowsPerBlock * operand.k * int64_t{sizeof(float)});
  }
  for (int32_t p = 0; p < args.num_parts; ++p) {
    const int64_t bytes = Aligned(table.scratch_bytes(operand, args.parts[p].weight.shape));
    if (bytes > w.multiply_scratch) w.multiply_scratch = bytes;
  }
  w.worker = w.row_scratch > w.multiply_scratch ? w.row_scratch : w.multiply_scratch;
  return w;
}

}  // namespace

void Rotate(float* row, int64_t padded_k, Isa isa) { KernelsFor(isa).rotate(row, padded_k); }

void UnscaleRotated(float* row, int64_t padded_k) {
  for (int64_t at = 0; at < padded_k;) {
    int64_t block = kRotationBlock;
    while (block > padded_k - at) block /= 2;
    const float inverse = 4.0f / static_cast<float>(block);
    for (int64_t i = 0; i < block; ++i) row[at + i] *= inverse;
    at += block;
  }
}

int64_t PackedLinearWorkspace(const PackedLinearArgs& args, int32_t threads, Isa isa) {
  const Workspace w = Measure(args, packed::PackedKernelsFor(isa));
  return w.operand + w.worker * (threads > 1 ? threads : 1);
}

PackedPlan::PackedPlan(const PackedLinearArgs& args, Isa isa)
    : args_(&args), table_(&packed::PackedKernelsFor(isa)), kernels_(&KernelsFor(isa)) {
  const Workspace w = Measure(args, *table_);
  operand_ = OperandOf(args);
  operand_.data = args.workspace;
  worker_base_ = static_cast<char*>(args.workspace) + w.operand;
  worker_bytes_ = w.worker;
  prepare_rows_ = args.rows < kManyRows ? kFewPreparedRows : packed::kRowsPerBlock;
  prepare_units_ = CeilDiv(args.rows, prepare_rows_);
  multiply_rows_ = table_->unit_rows == nullptr ? args.rows : table_->unit_rows(operand_);
  const int64_t chunks = multiply_rows_ > 0 ? CeilDiv(args.rows, multiply_rows_) : 0;
  for (int32_t p = 0; p < args.num_parts; ++p) {
    const PackedShape& shape = args.parts[p].weight.shape;
    layouts_[p] = LayoutOf(shape);
    unit_panels_[p] = table_->unit_panels(operand_, shape);
    first_unit_[p] = multiply_units_;
    first_column_[p] = columns_;
    panel_units_[p] = CeilDiv(layouts_[p].panels, unit_panels_[p]);
    multiply_units_ += chunks * panel_units_[p];
    columns_ += shape.n;
  }
}

void PackedPlan::Prepare(int64_t unit, int64_t worker) const {
  const PackedLinearArgs& args = *args_;
  const int64_t first = unit * prepare_rows_;
  const int64_t left = args.rows - first;
  const int64_t count = left < prepare_rows_ ? left : prepare_rows_;
  const float* x = args.x + first * args.x_stride;
  int64_t stride = args.x_stride;
  if (IsRotated(args)) {
    float* rows = reinterpret_cast<float*>(worker_base_ + worker * worker_bytes_);
    for (int64_t r = 0; r < count; ++r) {
      float* row = rows + r * operand_.k;
      kernels_->prologue(args, x + r * stride, row);
      const size_t used = static_cast<size_t>(args.k) * sizeof(float);
      if (args.prepared != nullptr) {
        std::memcpy(args.prepared + (first + r) * args.k, row, used);
      }
      std::memset(row + args.k, 0, static_cast<size_t>(operand_.k) * sizeof(float) - used);
      kernels_->rotate(row, operand_.k);
    }
    x = rows;
    stride = operand_.k;
  } else if (args.prologue != Prologue::kNone || args.prepared != nullptr) {
    float* rows = args.prepared != nullptr
                      ? args.prepared + first * args.k
                      : reinterpret_cast<float*>(worker_base_ + worker * worker_bytes_);
    for (int64_t r = 0; r < count; ++r) {
      kernels_->prologue(args, x + r * stride, rows + r * args.k);
    }
    x = rows;
    stride = args.k;
  }
  table_->prepare(operand_, x, stride, first, count);
}

void PackedPlan::Multiply(int64_t unit, int64_t worker) const {
  const PackedLinearArgs& args = *args_;
  int32_t p = args.num_parts - 1;
  while (unit < first_unit_[p]) --p;
  packed::MultiplyArgs m;
  m.operand = operand_;
  m.weight = args.parts[p].weight;
  m.layout = layouts_[p];
  const int64_t panels = layouts_[p].panels;
  // Panels change first: a worker finds the rows of its last unit in its cache.
  const int64_t chunk = (unit - first_unit_[p]) / panel_units_[p];
  m.first_row = chunk * multiply_rows_;
  m.last_row = args.rows - m.first_row < multiply_rows_ ? args.rows : m.first_row + multiply_rows_;
  m.first_panel = (unit - first_unit_[p]) % panel_units_[p] * unit_panels_[p];
  m.last_panel = m.first_panel + unit_panels_[p];
  if (m.last_panel > panels) m.last_panel = panels;
  // Units are handed out one after another, so this worker's next one is likely the one after the
  // other workers' present ones.
  m.next_first = m.first_panel + unit_panels_[p] * threads_;
  if (m.next_first > panels) m.next_first = panels;
  m.next_last =
      m.next_first + unit_panels_[p] < panels ? m.next_first + unit_panels_[p] : panels;
  m.bias = args.parts[p].bias;
  m.residual = args.residual == nullptr ? nullptr : args.residual + first_column_[p];
  m.y = args.y + first_column_[p];
  m.y_stride = columns_;
  m.scratch = worker_base_ + worker * worker_bytes_;
  table_->multiply(m);
}

void PackedLinear(const PackedLinearArgs& args, const Parallel& parallel, Isa isa) {
  if (args.rows == 0) return;
  PackedPlan plan(args, isa);
  plan.Run(parallel, plan.prepare_units(),
           [&](int64_t unit, int64_t worker) { plan.Prepare(unit, worker); });
  plan.Run(parallel, plan.multiply_units(),
           [&](int64_t unit, int64_t worker) { plan.Multiply(unit, worker); });
}

}  // namespace loramux
