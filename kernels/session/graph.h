// The ONNX Runtime session: loads the model with our operators registered, runs it on one step's
// inputs.
#pragma once

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
  // Members go in reverse order of declaration: value descriptions, session, options, operators,
  // environment. The session must go before the operators it calls.
  ~Graph() = default;

  // Opens the library and loads the model. Throws kOrtLibrary, kOrtVersion, kModelLoad.
  void Load();
  const std::string& ort_version() const { return library_.version; }

  // Runs the graph on input_ids [T] and logit_rows [R]; logits is [R, vocab]. Throws kStepFailed.
  void Run(StepInput* input, float* logits);

  // From any thread: makes a Load or Run under way, and every later one, fail soon.
  void Cancel();

 private:
  void CreateOptions();
  void CheckSignature() const;

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
};

}  // namespace loramux
