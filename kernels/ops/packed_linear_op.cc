#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "cpu/packed/packed_plan.h"
#include "loramux/convert.h"
#include "loramux/segmented_lora.h"
#include "ops/lora_segments.h"
#include "ops/ops.h"
#include "ort/ort_library.h"

namespace loramux::ops {
namespace {

constexpr const char* kName = "PackedLinear";
// Inputs by index.
constexpr size_t kX = 0, kResidual = 1, kNorm = 2, kWeights = 3, kBiases = kWeights + kMaxParts;
constexpr size_t kInputs = kBiases + kMaxParts;
constexpr uintptr_t kBlobAlign = 64;  // see PackedWeight

std::string PartName(size_t part) { return "weight " + std::to_string(part); }

// A constant input as it lies in memory, of any element type.
struct Constant {
  const void* data = nullptr;
  ort::ElementType type = ort::kElementUndefined;
  std::vector<int64_t> dims;
};

Constant ConstantInput(const ort::OrtApi* api, const ort::OrtKernelInfo* info, size_t index,
                       const std::string& name) {
  const auto check = [&](ort::OrtStatus* status) {
    ort::Check(api, status, ErrorCode::kModelLoad, name.c_str());
  };
  int is_constant = 0;
  const ort::OrtValue* value = nullptr;
  check(ort::GetConstantInput::Call(api, info, index, &is_constant, &value));
  if (is_constant == 0 || value == nullptr) {
    throw NativeError(ErrorCode::kModelLoad, name + " must be an initializer");
  }
  Constant constant;
  ort::ShapeInfoHandle shape(api);
  check(ort::GetTensorShapeInfo::Call(api, value, shape.out()));
  check(ort::GetElementType::Call(api, shape.get(), &constant.type));
  size_t rank = 0;
  check(ort::GetDimensionsCount::Call(api, shape.get(), &rank));
  constant.dims.resize(rank);
  check(ort::GetDimensions::Call(api, shape.get(), constant.dims.data(), rank));
  void* data = nullptr;
  check(ort::GetTensorData::Call(api, const_cast<ort::OrtValue*>(value), &data));
  constant.data = data;
  return constant;
}

struct Part {
  PackedWeight weight;
  MappedBuffer packed;  // weights packed here; empty where the graph holds a blob
};

struct Kernel {
  const CustomOp* op = nullptr;
  int32_t layer = 0;
  int32_t module = -1;  // of the first part; -1: no adapters
  int64_t k = 0;
  int32_t num_parts = 0;
  int64_t columns = 0;
  int32_t activation_group = 0;
  Prologue prologue = Prologue::kNone;
  float norm_eps = 0.0f;
  Part parts[kMaxParts];

  void ReadInputs(ort::OrtKernelContext* context, PackedLinearArgs* args) const;
  void Compute(ort::OrtKernelContext* context) const;
};

const float* Vector(const CustomOp& op, ort::OrtKernelContext* context, size_t index,
                    const char* name, int64_t size) {
  const Tensor tensor = Input(op.api, context, index, name);
  if (tensor.data == nullptr) return nullptr;
  if (tensor.rank != 1 || tensor.dims[0] != size) {
    throw NativeError(ErrorCode::kStepFailed,
                      std::string(name) + " must be [" + std::to_string(size) + "]");
  }
  return tensor.data;
}

// The step's adapters on one call: per part a plan, its units numbered through all parts.
class AdapterWork {
 public:
  // Segments of the running step. Nothing to do where no adapter changes a part.
  AdapterWork(const Kernel& kernel, const StepInput& input, StepContext* step);

  bool empty() const { return empty_; }
  // x [rows, k] after the prologue, y [rows, columns] of all parts.
  void Plan(const Kernel& kernel, const float* x, float* y, int64_t rows, StepContext* step);
  int64_t shrink_units() const { return shrink_units_; }
  int64_t expand_units() const { return expand_units_; }
  void Shrink(int64_t unit) const {
    const PartPlan& part = PartOf(unit, &PartPlan::first_shrink);
    SegmentedLoraShrinkUnit(part.plan, unit - part.first_shrink);
  }
  void Expand(int64_t unit) const {
    const PartPlan& part = PartOf(unit, &PartPlan::first_expand);
    SegmentedLoraExpandUnit(part.plan, unit - part.first_expand);
  }

 private:
  struct PartPlan {
    SegmentedLoraPlan plan;
    int64_t first_shrink = 0;
    int64_t first_expand = 0;
  };
  const PartPlan& PartOf(int64_t unit, int64_t PartPlan::*first) const {
    int32_t p = num_parts_ - 1;
    while (unit < parts_[p].*first) --p;
    return parts_[p];
  }

  int32_t num_parts_;
  bool empty_ = true;
  PartPlan parts_[kMaxParts];
  int64_t shrink_units_ = 0;
  int64_t expand_units_ = 0;
};

AdapterWork::AdapterWork(const Kernel& kernel, const StepInput& input, StepContext* step)
    : num_parts_(kernel.num_parts) {
  if (kernel.module < 0 || input.segments.empty()) return;
  for (int32_t p = 0; p < num_parts_; ++p) {
    std::vector<LoraSegment>& segments = step->part_segments[p];
    CollectLoraSegments(input, kernel.layer, kernel.module + p, &segments);
    empty_ = empty_ && segments.empty();
  }
}

void AdapterWork::Plan(const Kernel& kernel, const float* x, float* y, int64_t rows,
                       StepContext* step) {
  SegmentedLoraArgs calls[kMaxParts];
  int64_t offsets[kMaxParts] = {};
  int64_t bytes = 0;
  int64_t column = 0;
  for (int32_t p = 0; p < num_parts_; ++p) {
    SegmentedLoraArgs& call = calls[p];
    call.x = x;
    call.x_stride = kernel.k;
    call.y = y + column;
    call.y_stride = kernel.columns;
    call.rows = rows;
    call.in = kernel.k;
    call.out = kernel.parts[p].weight.shape.n;
    call.segments = step->part_segments[p].data();
    call.num_segments = static_cast<int64_t>(step->part_segments[p].size());
    offsets[p] = bytes;
    bytes += (SegmentedLoraWorkspace(call) + 63) / 64 * 64;
    column += call.out;
  }
  auto* workspace = static_cast<char*>(step->lora_workspace.ReserveBytes(bytes));
  for (int32_t p = 0; p < num_parts_; ++p) {
    PartPlan& part = parts_[p];
    calls[p].workspace = workspace + offsets[p];
    part.plan = PlanSegmentedLora(calls[p], step->config->isa);
    part.first_shrink = shrink_units_;
    part.first_expand = expand_units_;
    shrink_units_ += part.plan.shrink_units;
    expand_units_ += part.plan.expand_units;
  }
}

void Kernel::ReadInputs(ort::OrtKernelContext* context, PackedLinearArgs* args) const {
  const int64_t width = prologue == Prologue::kSwiGlu ? 2 * k : k;
  const Tensor x = Input(op->api, context, kX, "x");
  if (x.rank != 2 || x.dims[1] != width) {
    throw NativeError(ErrorCode::kStepFailed, "x must be [rows, " + std::to_string(width) + "]");
  }
  args->x = x.data;
  args->x_stride = width;
  args->rows = x.dims[0];
  args->k = k;
  args->prologue = prologue;
  args->norm = Vector(*op, context, kNorm, "norm", k);
  if ((args->norm != nullptr) != (prologue == Prologue::kRmsNorm)) {
    throw NativeError(ErrorCode::kStepFailed, "norm and the norm prologue go together");
  }
  args->norm_eps = norm_eps;
  args->activation_group = activation_group;
  args->num_parts = num_parts;
  for (int32_t p = 0; p < num_parts; ++p) {
    args->parts[p].weight = parts[p].weight;
    args->parts[p].bias = Vector(*op, context, kBiases + p, "bias", parts[p].weight.shape.n);
  }
  if (Input(op->api, context, kResidual, "residual").data != nullptr) {
    args->residual =
        InputMatrix(op->api, context, kResidual, "residual", args->rows, columns).data;
  }
}

void Kernel::Compute(ort::OrtKernelContext* context) const {
  StepContext& step = *op->context;
  const StepInput& input = CurrentInput(*op);
  const Isa isa = step.config->isa;
  PackedLinearArgs args;
  ReadInputs(context, &args);
  if (module >= 0 && args.rows != input.num_tokens) {
    throw NativeError(ErrorCode::kStepFailed, "x must have a row per token");
  }
  args.y = OutputMatrix(op->api, context, args.rows, columns);
  if (args.rows == 0) return;

  AdapterWork adapters(*this, input, &step);
  if (!adapters.empty()) {
    if (prologue != Prologue::kNone) args.prepared = step.prepared_rows.Reserve(args.rows * k);
    adapters.Plan(*this, args.prepared != nullptr ? args.prepared : args.x, args.y, args.rows,
                  &step);
  }
  KernelParallel threads(*op, context);
  const Parallel parallel = threads.Get();
  args.workspace =
      step.packed_workspace.ReserveBytes(PackedLinearWorkspace(args, parallel.threads, isa));
  PackedPlan plan(args, isa);
  plan.Run(parallel, plan.prepare_units(),
           [&](int64_t unit, int64_t worker) { plan.Prepare(unit, worker); });
  // The base product and the adapters' first half read different weights and write different
  // places: one region, in which neither waits for the other.
  plan.Run(parallel, plan.multiply_units() + adapters.shrink_units(),
           [&](int64_t unit, int64_t worker) {
             const int64_t shrink = unit - plan.multiply_units();
             if (shrink < 0) {
               plan.Multiply(unit, worker);
             } else {
               adapters.Shrink(shrink);
             }
           });
  plan.Run(parallel, adapters.expand_units(),
           [&](int64_t unit, int64_t) { adapters.Expand(unit); });
}

// The weight's blob as the graph holds it, or packed now from a float matrix.
void LoadPart(const CustomOp& op, const ort::OrtKernelInfo* info, size_t index,
              const PackedShape& shape, Part* part) {
  const std::string name = PartName(index);
  const Constant constant = ConstantInput(op.api, info, kWeights + index, name);
  const PackedLayout layout = LayoutOf(shape);
  part->weight.shape = shape;
  if (constant.type == ort::kElementUint8) {
    if (constant.dims.size() != 1 || constant.dims[0] != layout.bytes) {
      throw NativeError(ErrorCode::kModelLoad, name + " must have " +
                                                   std::to_string(layout.bytes) + " bytes");
    }
    part->weight.blob = static_cast<const uint8_t*>(constant.data);
    if (reinterpret_cast<uintptr_t>(constant.data) % kBlobAlign != 0) {
      throw NativeError(ErrorCode::kModelLoad, name + " must lie on 64 bytes");
    }
    if (!HasUsableScales(part->weight)) {
      throw NativeError(ErrorCode::kModelLoad,
                        name + " has a scale that is not finite, or a zero point beyond 16");
    }
    return;
  }
  PackSource source;
  source.weights = constant.data;
  if (constant.type == ort::kElementFloat) {
    source.dtype = static_cast<int32_t>(WeightDtype::kF32);
  } else if (constant.type == ort::kElementFloat16) {
    source.dtype = static_cast<int32_t>(WeightDtype::kF16);
  } else if (constant.type == ort::kElementBfloat16) {
    source.dtype = static_cast<int32_t>(WeightDtype::kBf16);
  } else {
    throw NativeError(ErrorCode::kModelLoad,
                      name + " must be a packed blob (uint8), float32, float16 or bfloat16");
  }
  if (constant.dims.size() != 2 || constant.dims[0] != shape.n || constant.dims[1] != shape.k) {
    throw NativeError(ErrorCode::kModelLoad, name + " must be [" + std::to_string(shape.n) + ", " +
                                                 std::to_string(shape.k) + "]");
  }
  part->packed = MappedBuffer(static_cast<size_t>(layout.bytes), "packed weights");
  auto* blob = static_cast<uint8_t*>(part->packed.data());
  constexpr int64_t kPanelsPerUnit = 4;
  const int64_t units = (layout.panels + kPanelsPerUnit - 1) / kPanelsPerUnit;
  std::atomic<bool> usable{true};
  op.context->parallel.For(static_cast<size_t>(units), [&](size_t unit) {
    const int64_t first = static_cast<int64_t>(unit) * kPanelsPerUnit;
    const int64_t last = std::min(first + kPanelsPerUnit, layout.panels);
    if (!PackPanels(source, shape, first, last, blob)) usable = false;
  });
  if (!usable) {
    throw NativeError(ErrorCode::kModelLoad, name + " has values that are not finite");
  }
  part->weight.blob = blob;
}

ort::OrtStatus* Create(const ort::OrtCustomOp* record, const ort::OrtApi*,
                       const ort::OrtKernelInfo* info, void** out) {
  const CustomOp& op = FromRecord(record);
  return Guard(op.api, kName, [&] {
    const ModelConfig& model = op.context->config->model;
    const auto integer = [&](const char* name, int64_t low, int64_t high) {
      return AttributeInt(op.api, info, name, low, high);
    };
    auto kernel = std::make_unique<Kernel>();
    kernel->op = &op;
    kernel->module = static_cast<int32_t>(integer("module", -1, kNumModules - 1));
    kernel->layer = static_cast<int32_t>(
        integer("layer", kernel->module < 0 ? -1 : 0, model.num_layers - 1));
    kernel->num_parts = static_cast<int32_t>(integer("parts", 1, kMaxParts));
    kernel->k = integer("k", 1, kMaxFeatures);
    kernel->prologue = static_cast<Prologue>(integer("prologue", 0, 2));
    kernel->norm_eps = AttributeFloat(op.api, info, "norm_eps");
    if (!std::isfinite(kernel->norm_eps)) {
      throw NativeError(ErrorCode::kModelLoad, "norm_eps must be finite");
    }
    PackedShape shape;
    shape.format = static_cast<PackedFormat>(integer("format", 0, 2));
    shape.k = kernel->k;
    shape.group = static_cast<int32_t>(integer("group", 0, kMaxFeatures));
    shape.zero_points = integer("zero_points", 0, 1) == 1;
    shape.rotated = integer("rotated", 0, 1) == 1;
    kernel->activation_group = static_cast<int32_t>(integer(
        "activation_group", kSmallestActivationGroup, kLargestActivationGroup));
    if (!IsValidActivationGroup(shape, kernel->activation_group)) {
      throw NativeError(ErrorCode::kModelLoad,
                        "activation_group must be 64, 128, 256 or 512, and one of group and "
                        "activation_group a multiple of the other");
    }
    if (kernel->module >= 0 && kernel->module + kernel->num_parts > kNumModules) {
      throw NativeError(ErrorCode::kModelLoad, "parts reach beyond the last module");
    }
    constexpr const char* kSizes[kMaxParts] = {"n0", "n1", "n2"};
    for (int32_t p = 0; p < kernel->num_parts; ++p) {
      // Adapters were checked against the session's model; a graph of another shape must not load.
      const bool adapted = kernel->module >= 0;
      const int32_t module = kernel->module + p;
      shape.n = integer(kSizes[p], adapted ? model.OutFeatures(module) : 1,
                        adapted ? model.OutFeatures(module) : kMaxFeatures);
      if (adapted && model.InFeatures(module) != kernel->k) {
        throw NativeError(ErrorCode::kModelLoad, "k is not the input size of the module");
      }
      if (!IsValid(shape)) {
        throw NativeError(ErrorCode::kModelLoad,
                          "no packed layout for group " + std::to_string(shape.group) + " of " +
                              PackedFormatName(shape.format));
      }
      LoadPart(op, info, static_cast<size_t>(p), shape, &kernel->parts[p]);
      kernel->columns += shape.n;
    }
    *out = kernel.release();
  });
}

}  // namespace

void FillPackedLinear(CustomOp* op) {
  ort::OrtCustomOp& record = op->record;
  record.GetName = [](const ort::OrtCustomOp*) { return kName; };
  record.GetInputTypeCount = [](const ort::OrtCustomOp*) -> size_t { return kInputs; };
  // Weights: a blob of bytes or a float matrix.
  record.GetInputType = [](const ort::OrtCustomOp*, size_t index) {
    return index >= kWeights && index < kBiases ? ort::kElementUndefined : ort::kElementFloat;
  };
  record.GetInputCharacteristic = [](const ort::OrtCustomOp*, size_t index) {
    return index == kX || index == kWeights ? ort::kRequired : ort::kOptional;
  };
  record.CreateKernelV2 = &Create;
  record.KernelComputeV2 = [](void* kernel, ort::OrtKernelContext* context) {
    const auto* self = static_cast<const Kernel*>(kernel);
    return Guard(self->op->api, kName, [&] { self->Compute(context); });
  };
  record.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
}

}  // namespace loramux::ops
