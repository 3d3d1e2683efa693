// Common part of the custom operators: the record that ONNX Runtime calls through, with what we
// need behind it, and small typed views of a kernel's inputs and outputs.
#pragma once

#include <array>
#include <exception>
#include <string>

#include "loramux/types.h"
#include "ort/ort_abi.h"
#include "session/error.h"
#include "session/step_context.h"

namespace loramux::ops {

// ONNX Runtime passes the address of `record` back to its callbacks; it is the first member, so the
// same address is a CustomOp.
struct CustomOp {
  ort::OrtCustomOp record{};
  const ort::OrtApi* api = nullptr;
  StepContext* context = nullptr;
};

inline const CustomOp& FromRecord(const ort::OrtCustomOp* record) {
  return *reinterpret_cast<const CustomOp*>(record);
}

// Fills the fields of `op->record` that both operators share.
void FillCommon(CustomOp* op);

// An error status with this message.
ort::OrtStatus* MakeStatus(const ort::OrtApi* api, ort::StatusCode code,
                           const std::string& message);

// Runs `body`; what it throws becomes a status.
template <typename Body>
ort::OrtStatus* Guard(const ort::OrtApi* api, const char* op, Body body) {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    return MakeStatus(api, ort::kOrtFail, std::string("loramux.") + op + ": " + error.what());
  }
}

// A float32 matrix that the graph holds. Data is null when an optional input is absent.
struct Tensor {
  float* data = nullptr;
  size_t rank = 0;
  std::array<int64_t, 2> dims{};  // the first two
};

// Throws NativeError when the input is not float32 or has a rank other than 1 or 2.
Tensor Input(const ort::OrtApi* api, ort::OrtKernelContext* context, size_t index,
             const char* name);
// Like Input, and [rows, columns] is required.
Tensor InputMatrix(const ort::OrtApi* api, ort::OrtKernelContext* context, size_t index,
                   const char* name, int64_t rows, int64_t columns);
// Allocates output 0 as [rows, columns].
float* OutputMatrix(const ort::OrtApi* api, ort::OrtKernelContext* context, int64_t rows,
                    int64_t columns);

int64_t AttributeInt(const ort::OrtApi* api, const ort::OrtKernelInfo* info, const char* name,
                     int64_t low, int64_t high);
float AttributeFloat(const ort::OrtApi* api, const ort::OrtKernelInfo* info, const char* name);

// The threads a kernel may use, valid while it runs: those of the step's own pool where the session
// has one for the operators (packed weights), else ONNX Runtime's.
class KernelParallel {
 public:
  KernelParallel(const CustomOp& op, ort::OrtKernelContext* context)
      : api_(op.api), context_(context), step_(*op.context) {}
  // Borrows this object.
  Parallel Get();

 private:
  static void RunOnOrt(void* self, size_t n, void (*fn)(void*, size_t), void* arg);

  const ort::OrtApi* api_;
  ort::OrtKernelContext* context_;
  const StepContext& step_;
};

// The step's data; throws when no step is running (the graph was run by something else).
const StepInput& CurrentInput(const CustomOp& op);

// Declares output 0 to have the shape of input `index`.
ort::OrtStatus* SameShapeAsInput(const CustomOp& op, ort::OrtShapeInferContext* context,
                                 size_t index);

}  // namespace loramux::ops
