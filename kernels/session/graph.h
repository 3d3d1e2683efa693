// The ONNX Runtime session: loads the model with our operators registered, runs it on one step's
// inputs.
#pragma once

#include <array>
#include <memory>
#include <mutex>

#include "ops/ops.h"
#include "ort/ort_handle.h"
#include "ort/ort_library.h"
#include "session/config.h"
#include "session/step_context.h"

namespace loramux {

class Graph {
 public:
  Graph(const SessionConfig& config, StepContext* context);
  // Members go in reverse order of declaration: step tensors, value descriptions, session, options,
  // operators, environment. The session must go before the operators it calls.
  ~Graph() = default;

  // Opens the library and loads the model. Throws kOrtLibrary, kOrtVersion, kModelLoad.
  void Load();
  const std::string& ort_version() const { return library_.version; }

  // Runs the graph on input_ids [T] and logit_rows [R]; logits is [R, vocab]. Throws kStepFailed.
  void Run(StepInput* input, float* logits);

  // From any thread: makes a Load or Run under way, and every later one, fail soon.
  void Cancel();

 private:
  // A tensor over our memory, kept from step to step while shape and memory stay the same.
  struct StepTensor {
    ort::ValueHandle value;
    const void* data = nullptr;
    std::array<int64_t, 2> dims{};
  };

  void CreateOptions();
  void CheckSignature() const;
  const ort::OrtValue* Refresh(StepTensor* tensor, void* data, size_t element,
                               std::array<int64_t, 2> dims, size_t rank, ort::ElementType type);

  const SessionConfig& config_;
  StepContext* context_;
  ort::Library library_;
  std::mutex cancel_mutex_;  // guards cancelled_ and the creation of what Cancel touches
  bool cancelled_ = false;

  ort::EnvHandle env_;
  std::unique_ptr<ops::OpSet> ops_;
  ort::SessionOptionsHandle options_;
  ort::RunOptionsHandle run_options_;
  ort::SessionHandle session_;
  ort::MemoryInfoHandle memory_info_;
  StepTensor input_ids_;
  StepTensor logit_rows_;
  StepTensor logits_;
  int32_t no_row_ = 0;  // what the logit rows of a step without any point to
};

}  // namespace loramux
