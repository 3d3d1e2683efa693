#include "ops/custom_op.h"

#include "ort/ort_handle.h"
#include "ort/ort_library.h"

namespace loramux::ops {
namespace {

[[noreturn]] void Fail(const std::string& message) {
  throw NativeError(ErrorCode::kStepFailed, message);
}

}  // namespace

void FillCommon(CustomOp* op) {
  using ort::OrtCustomOp;
  OrtCustomOp& record = op->record;
  record.version = ort::kApiVersion;
  record.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  record.GetInputType = [](const OrtCustomOp*, size_t) { return ort::kElementFloat; };
  record.GetOutputType = [](const OrtCustomOp*, size_t) { return ort::kElementFloat; };
  record.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  record.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return ort::kRequired; };
  record.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return ort::kRequired; };
  record.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return ort::kMemTypeDefault; };
  record.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  record.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
  record.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  record.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  record.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  record.GetEndVersion = [](const OrtCustomOp*) { return INT32_MAX; };
}

ort::OrtStatus* MakeStatus(const ort::OrtApi* api, ort::StatusCode code,
                           const std::string& message) {
  return ort::CreateStatus::Call(api, code, message.c_str());
}

Tensor Input(const ort::OrtApi* api, ort::OrtKernelContext* context, size_t index,
             const char* name) {
  const auto check = [&](ort::OrtStatus* status) {
    ort::Check(api, status, ErrorCode::kStepFailed, name);
  };
  size_t count = 0;
  check(ort::KernelGetInputCount::Call(api, context, &count));
  if (index >= count) return {};
  const ort::OrtValue* value = nullptr;
  check(ort::KernelGetInput::Call(api, context, index, &value));
  if (value == nullptr) return {};
  ort::ShapeInfoHandle shape(api);
  check(ort::GetTensorShapeInfo::Call(api, value, shape.out()));
  ort::ElementType type = ort::kElementUndefined;
  check(ort::GetElementType::Call(api, shape.get(), &type));
  if (type != ort::kElementFloat) Fail(std::string(name) + " must be float32");
  Tensor tensor;
  check(ort::GetDimensionsCount::Call(api, shape.get(), &tensor.rank));
  if (tensor.rank < 1 || tensor.rank > 2) {
    Fail(std::string(name) + " has rank " + std::to_string(tensor.rank) + ", expected 1 or 2");
  }
  check(ort::GetDimensions::Call(api, shape.get(), tensor.dims.data(), tensor.rank));
  void* data = nullptr;
  check(ort::GetTensorData::Call(api, const_cast<ort::OrtValue*>(value), &data));
  tensor.data = static_cast<float*>(data);
  return tensor;
}

Tensor InputMatrix(const ort::OrtApi* api, ort::OrtKernelContext* context, size_t index,
                   const char* name, int64_t rows, int64_t columns) {
  const Tensor tensor = Input(api, context, index, name);
  if (tensor.rank != 2 || tensor.dims[0] != rows || tensor.dims[1] != columns) {
    Fail(std::string(name) + " is [" + std::to_string(tensor.dims[0]) + ", " +
         std::to_string(tensor.dims[1]) + "], expected [" + std::to_string(rows) + ", " +
         std::to_string(columns) + "]");
  }
  return tensor;
}

float* OutputMatrix(const ort::OrtApi* api, ort::OrtKernelContext* context, int64_t rows,
                    int64_t columns) {
  const int64_t dims[2] = {rows, columns};
  ort::OrtValue* value = nullptr;
  ort::Check(api, ort::KernelGetOutput::Call(api, context, 0, dims, 2, &value),
             ErrorCode::kStepFailed, "output");
  void* data = nullptr;
  ort::Check(api, ort::GetTensorData::Call(api, value, &data), ErrorCode::kStepFailed, "output");
  return static_cast<float*>(data);
}

int64_t AttributeInt(const ort::OrtApi* api, const ort::OrtKernelInfo* info, const char* name,
                     int64_t low, int64_t high) {
  int64_t value = 0;
  ort::Check(api, ort::GetAttributeInt::Call(api, info, name, &value), ErrorCode::kModelLoad,
             name);
  if (value < low || value > high) {
    throw NativeError(ErrorCode::kModelLoad, std::string("attribute ") + name + " = " +
                                                 std::to_string(value) + ", expected " +
                                                 std::to_string(low) + " to " +
                                                 std::to_string(high));
  }
  return value;
}

float AttributeFloat(const ort::OrtApi* api, const ort::OrtKernelInfo* info, const char* name) {
  float value = 0.0f;
  ort::Check(api, ort::GetAttributeFloat::Call(api, info, name, &value), ErrorCode::kModelLoad,
             name);
  return value;
}

// The library has no status-free failure here: a range that cannot run would leave output garbage,
// so it is run on this thread instead.
void KernelParallel::RunOnOrt(void* self, size_t n, void (*fn)(void*, size_t), void* arg) {
  const auto* parallel = static_cast<const KernelParallel*>(self);
  ort::OrtStatus* status =
      ort::KernelParallelFor::Call(parallel->api_, parallel->context_, fn, n, 0, arg);
  if (status == nullptr) return;
  ort::ReleaseStatus::Call(parallel->api_, status);
  for (size_t i = 0; i < n; ++i) fn(arg, i);
}

Parallel KernelParallel::Get() {
  if (step_.parallel.run != nullptr) return step_.parallel;
  const int32_t threads =
      step_.config->model.packed_weights ? 1 : step_.config->intra_op_threads;
  return Parallel{this, threads > 1 ? &RunOnOrt : nullptr, threads};
}

const StepInput& CurrentInput(const CustomOp& op) {
  if (op.context->input == nullptr) Fail("the graph ran outside a step");
  return *op.context->input;
}

ort::OrtStatus* SameShapeAsInput(const CustomOp& op, ort::OrtShapeInferContext* context,
                                 size_t index) {
  // Owned by the inference context, unlike the shape infos of values.
  ort::OrtTensorShapeInfo* shape = nullptr;
  ort::OrtStatus* status = ort::ShapeInferGetInput::Call(op.api, context, index, &shape);
  if (status != nullptr) return status;
  return ort::ShapeInferSetOutput::Call(op.api, context, 0, shape);
}

}  // namespace loramux::ops
