#include <cmath>
#include <memory>

#include "loramux/paged_attention.h"
#include "ops/ops.h"
#include "ort/ort_library.h"

namespace loramux::ops {
namespace {

constexpr const char* kName = "PagedAttention";

struct Kernel {
  const CustomOp* op;
  int32_t layer;
  int32_t sliding_window;
  float softmax_scale;
  float norm_eps;

  void Compute(ort::OrtKernelContext* context) const;
};

const float* NormWeight(const CustomOp& op, ort::OrtKernelContext* context, size_t index,
                        const char* name, int32_t head_size) {
  const Tensor tensor = Input(op.api, context, index, name);
  if (tensor.data == nullptr) return nullptr;
  if (tensor.rank != 1 || tensor.dims[0] != head_size) {
    throw NativeError(ErrorCode::kStepFailed,
                      std::string(name) + " must be [" + std::to_string(head_size) + "]");
  }
  return tensor.data;
}

void Kernel::Compute(ort::OrtKernelContext* context) const {
  StepContext& step = *op->context;
  const StepInput& input = CurrentInput(*op);
  const SessionConfig& config = *step.config;
  const ModelConfig& model = config.model;
  const int64_t tokens = input.num_tokens;
  const int64_t q_width = int64_t{model.num_heads} * model.head_size;
  const int64_t kv_width = int64_t{model.num_kv_heads} * model.head_size;

  PagedAttentionArgs args;
  const Tensor k = Input(op->api, context, 1, "k");
  const Tensor v = Input(op->api, context, 2, "v");
  // An absent input has no rank; one of no rows has no data.
  if ((k.rank == 0) != (v.rank == 0)) {
    throw NativeError(ErrorCode::kStepFailed, "k and v go together");
  }
  if (k.rank == 0) {
    const int64_t width = q_width + 2 * kv_width;
    args.q = InputMatrix(op->api, context, 0, "q, k and v in one", tokens, width).data;
    args.k = args.q + q_width;
    args.v = args.k + kv_width;
    args.q_stride = args.k_stride = args.v_stride = width;
  } else {
    args.q = InputMatrix(op->api, context, 0, "q", tokens, q_width).data;
    args.k = InputMatrix(op->api, context, 1, "k", tokens, kv_width).data;
    args.v = InputMatrix(op->api, context, 2, "v", tokens, kv_width).data;
    args.q_stride = q_width;
    args.k_stride = args.v_stride = kv_width;
  }
  args.q_norm = NormWeight(*op, context, 3, "q_norm", model.head_size);
  args.k_norm = NormWeight(*op, context, 4, "k_norm", model.head_size);
  if ((args.q_norm == nullptr) != (args.k_norm == nullptr)) {
    throw NativeError(ErrorCode::kStepFailed, "q_norm and k_norm go together");
  }
  args.out = OutputMatrix(op->api, context, tokens, q_width);
  args.num_tokens = tokens;
  args.num_heads = model.num_heads;
  args.num_kv_heads = model.num_kv_heads;
  args.head_size = model.head_size;
  args.softmax_scale = softmax_scale;
  args.sliding_window = sliding_window;
  args.norm_eps = norm_eps;
  args.cos_sin = step.cos_sin;
  args.rotary_dim = step.rotary_dim;
  args.k_cache = step.kv->Keys(layer);
  args.v_cache = step.kv->Values(layer);
  args.kv_dtype = config.kv_dtype;
  args.num_blocks = config.num_blocks;
  args.block_size = config.block_size;
  args.num_sequences = input.num_sequences;
  args.query_start = input.query_start.data();
  args.context_lens = input.context_lens.data();
  args.block_tables = input.block_tables.data();
  args.max_blocks = input.max_blocks;
  args.slot_mapping = input.slot_mapping.data();
  args.workspace = step.attention_workspace.Reserve(
      PagedAttentionWorkspace(args, config.intra_op_threads, config.isa));
  KernelParallel parallel(*op, context);
  PagedAttention(args, parallel.Get(), config.isa);
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
    // The cache was laid out from the session's model; a graph of another shape must not load.
    AttributeInt(op.api, info, "num_heads", model.num_heads, model.num_heads);
    AttributeInt(op.api, info, "num_kv_heads", model.num_kv_heads, model.num_kv_heads);
    AttributeInt(op.api, info, "head_size", model.head_size, model.head_size);
    kernel->sliding_window =
        static_cast<int32_t>(AttributeInt(op.api, info, "sliding_window", 0, INT32_MAX));
    kernel->softmax_scale = AttributeFloat(op.api, info, "softmax_scale");
    kernel->norm_eps = AttributeFloat(op.api, info, "norm_eps");
    if (!std::isfinite(kernel->softmax_scale) || !std::isfinite(kernel->norm_eps)) {
      throw NativeError(ErrorCode::kModelLoad, "softmax_scale and norm_eps must be finite");
    }
    *out = kernel.release();
  });
}

// [T, heads * size] where q comes alone; left open where k and v lie beside it.
ort::OrtStatus* InferShape(const CustomOp& op, ort::OrtShapeInferContext* context) {
  ort::OrtTensorShapeInfo* shape = nullptr;
  ort::OrtStatus* status = ort::ShapeInferGetInput::Call(op.api, context, 0, &shape);
  if (status != nullptr) return status;
  size_t rank = 0;
  status = ort::GetDimensionsCount::Call(op.api, shape, &rank);
  if (status != nullptr) return status;
  if (rank == 2) {
    int64_t dims[2];
    status = ort::GetDimensions::Call(op.api, shape, dims, 2);
    if (status != nullptr) return status;
    const ModelConfig& model = op.context->config->model;
    const int64_t packed =
        (int64_t{model.num_heads} + 2 * model.num_kv_heads) * model.head_size;
    if (dims[1] == packed) return nullptr;
  }
  return ort::ShapeInferSetOutput::Call(op.api, context, 0, shape);
}

}  // namespace

void FillPagedAttention(CustomOp* op) {
  ort::OrtCustomOp& record = op->record;
  record.GetName = [](const ort::OrtCustomOp*) { return kName; };
  record.GetInputTypeCount = [](const ort::OrtCustomOp*) -> size_t { return 5; };
  record.GetInputCharacteristic = [](const ort::OrtCustomOp*, size_t index) {
    return index < 1 ? ort::kRequired : ort::kOptional;
  };
  record.CreateKernelV2 = &Create;
  record.KernelComputeV2 = [](void* kernel, ort::OrtKernelContext* context) {
    const auto* self = static_cast<const Kernel*>(kernel);
    return Guard(self->op->api, kName, [&] { self->Compute(context); });
  };
  record.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  record.InferOutputShape = [](const ort::OrtCustomOp* self, ort::OrtShapeInferContext* context) {
    return InferShape(FromRecord(self), context);
  };
}

}  // namespace loramux::ops
