#include <cstring>
#include <memory>

#include "loramux/segmented_lora.h"
#include "ops/lora_segments.h"
#include "ops/ops.h"
#include "ort/ort_library.h"

namespace loramux::ops {
namespace {

constexpr const char* kName = "SegmentedLora";

struct Kernel {
  const CustomOp* op;
  int32_t layer;
  int32_t module;

  void Compute(ort::OrtKernelContext* context) const;
};

void Kernel::Compute(ort::OrtKernelContext* context) const {
  StepContext& step = *op->context;
  const StepInput& input = CurrentInput(*op);
  const ModelConfig& model = step.config->model;
  const int64_t rows = input.num_tokens;
  const int64_t in = model.InFeatures(module);
  const int64_t out = model.OutFeatures(module);
  const Tensor x = InputMatrix(op->api, context, 0, "x", rows, in);
  const Tensor base = InputMatrix(op->api, context, 1, "base", rows, out);
  float* y = OutputMatrix(op->api, context, rows, out);
  if (y != base.data) {
    std::memcpy(y, base.data, static_cast<size_t>(rows * out) * sizeof(float));
  }

  CollectLoraSegments(input, layer, module, &step.lora_segments);
  if (step.lora_segments.empty()) return;

  SegmentedLoraArgs args;
  args.x = x.data;
  args.x_stride = in;
  args.y = y;
  args.y_stride = out;
  args.rows = rows;
  args.in = in;
  args.out = out;
  args.segments = step.lora_segments.data();
  args.num_segments = static_cast<int64_t>(step.lora_segments.size());
  args.workspace = step.lora_workspace.ReserveBytes(SegmentedLoraWorkspace(args));
  KernelParallel parallel(*op, context);
  SegmentedLora(args, parallel.Get(), step.config->isa);
}

ort::OrtStatus* Create(const ort::OrtCustomOp* record, const ort::OrtApi*,
                       const ort::OrtKernelInfo* info, void** out) {
  const CustomOp& op = FromRecord(record);
  return Guard(op.api, kName, [&] {
    const ModelConfig& model = op.context->config->model;
    auto kernel = std::make_unique<Kernel>();
    kernel->op = &op;
    kernel->layer =
        static_cast<int32_t>(AttributeInt(op.api, info, "layer", 0, model.num_layers - 1));
    kernel->module = static_cast<int32_t>(AttributeInt(op.api, info, "module", 0, kNumModules - 1));
    *out = kernel.release();
  });
}

}  // namespace

void FillSegmentedLora(CustomOp* op) {
  ort::OrtCustomOp& record = op->record;
  record.GetName = [](const ort::OrtCustomOp*) { return kName; };
  record.GetInputTypeCount = [](const ort::OrtCustomOp*) -> size_t { return 2; };
  record.CreateKernelV2 = &Create;
  record.KernelComputeV2 = [](void* kernel, ort::OrtKernelContext* context) {
    const auto* self = static_cast<const Kernel*>(kernel);
    return Guard(self->op->api, kName, [&] { self->Compute(context); });
  };
  record.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  record.InferOutputShape = [](const ort::OrtCustomOp* self, ort::OrtShapeInferContext* context) {
    return SameShapeAsInput(FromRecord(self), context, 1);
  };
  // The output may take over the buffer of `base`: where nobody else reads it, nothing is copied.
  record.GetMayInplace = [](int** inputs, int** outputs) -> size_t {
    *inputs = new int[1]{1};
    *outputs = new int[1]{0};
    return 1;
  };
  record.ReleaseMayInplace = [](int* inputs, int* outputs) {
    delete[] inputs;
    delete[] outputs;
  };
}

}  // namespace loramux::ops
