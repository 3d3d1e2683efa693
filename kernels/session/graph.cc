#include "session/graph.h"

#include <algorithm>
#include <string>

namespace loramux {
namespace {

constexpr const char* kInputs[] = {"input_ids", "logit_rows"};
constexpr const char* kOutputs[] = {"logits"};

}  // namespace

Graph::Graph(const SessionConfig& config, StepContext* context)
    : config_(config), context_(context) {}

void Graph::CreateOptions() {
  const ort::OrtApi* api = library_.api;
  const auto check = [&](ort::OrtStatus* status) {
    ort::Check(api, status, ErrorCode::kModelLoad, "session options");
  };
  check(ort::CreateSessionOptions::Call(api, options_.out()));
  ort::OrtSessionOptions* options = options_.get();
  check(ort::SetExecutionMode::Call(api, options, ort::kSequential));
  check(ort::SetGraphOptimizationLevel::Call(api, options, ort::kOptimizeAll));
  // Explicit, because the default ignores the CPU quota of a container.
  check(ort::SetIntraOpNumThreads::Call(
      api, options, config_.model.packed_weights ? 1 : config_.intra_op_threads));
  check(ort::SetInterOpNumThreads::Call(api, options, 1));
  // Every step has other shapes, so a recorded pattern would never fit the next one.
  check(ort::DisableMemPattern::Call(api, options));
  // Errors reach the caller as statuses; the library need not print them too.
  check(ort::SetLogSeverity::Call(api, options, ort::kLogFatal));
  const auto set = [&](const char* key, const char* value) {
    check(ort::AddSessionConfigEntry::Call(api, options, key, value));
  };
  set("session.intra_op.allow_spinning", "0");
  // 0: no limit. Half-precision weights are widened once at load, however large they are.
  set("optimization.constant_folding_max_output_size_in_bytes", "0");
  set("session.model_external_initializers_file_folder_path",
      config_.model.external_data_dir.c_str());
}

void Graph::Load() {
  library_ = ort::OpenLibrary(config_.ort_library_path);
  const ort::OrtApi* api = library_.api;
  const auto check = [&](ort::OrtStatus* status, const char* what) {
    ort::Check(api, status, ErrorCode::kModelLoad, what);
  };
  env_ = ort::EnvHandle(api);
  session_ = ort::SessionHandle(api);
  memory_info_ = ort::MemoryInfoHandle(api);
  // The library keeps one environment per process and counts its users.
  check(ort::CreateEnv::Call(api, ort::kLogFatal, "loramux", env_.out()), "environment");
  ops_ = std::make_unique<ops::OpSet>(api, context_);
  {
    const std::lock_guard lock(cancel_mutex_);
    options_ = ort::SessionOptionsHandle(api);
    run_options_ = ort::RunOptionsHandle(api);
    CreateOptions();
    check(ort::CreateRunOptions::Call(api, run_options_.out()), "run options");
    check(ort::RunOptionsSetLogSeverity::Call(api, run_options_.get(), ort::kLogFatal),
          "run options");
    if (cancelled_) {
      throw NativeError(ErrorCode::kSessionClosed, "the session closed while the model loaded");
    }
  }
  ops_->AddTo(options_.get());
  check(ort::CreateCpuMemoryInfo::Call(api, ort::kArenaAllocator, ort::kMemTypeDefault,
                                       memory_info_.out()),
        "memory info");
  const std::vector<uint8_t>& bytes = config_.model.model_bytes;
  check(ort::CreateSessionFromArray::Call(api, env_.get(), bytes.data(), bytes.size(),
                                          options_.get(), session_.out()),
        "loading the model");
  CheckSignature();
}

void Graph::CheckSignature() const {
  const ort::OrtApi* api = library_.api;
  const auto check = [&](ort::OrtStatus* status) {
    ort::Check(api, status, ErrorCode::kModelLoad, "model signature");
  };
  ort::OrtAllocator* allocator = nullptr;
  check(ort::GetAllocatorWithDefaultOptions::Call(api, &allocator));
  const auto require = [&](size_t count, auto name_at, const auto& expected, const char* what) {
    bool same = count == std::size(expected);
    std::string found;
    for (size_t i = 0; i < count; ++i) {
      char* raw = nullptr;
      check(name_at(i, &raw));
      const std::string name = raw;
      ort::Ignore(api, ort::AllocatorFree::Call(api, allocator, raw));
      same = same && std::count(std::begin(expected), std::end(expected), name) == 1;
      found += (i == 0 ? "" : ", ") + name;
    }
    if (same) return;
    throw NativeError(ErrorCode::kModelLoad, std::string("the graph's ") + what + " are [" +
                                                 found + "], expected input_ids, logit_rows -> "
                                                         "logits");
  };
  size_t inputs = 0;
  size_t outputs = 0;
  check(ort::SessionGetInputCount::Call(api, session_.get(), &inputs));
  check(ort::SessionGetOutputCount::Call(api, session_.get(), &outputs));
  require(
      inputs,
      [&](size_t i, char** name) {
        return ort::SessionGetInputName::Call(api, session_.get(), i, allocator, name);
      },
      kInputs, "inputs");
  require(
      outputs,
      [&](size_t i, char** name) {
        return ort::SessionGetOutputName::Call(api, session_.get(), i, allocator, name);
      },
      kOutputs, "outputs");
}

const ort::OrtValue* Graph::Refresh(StepTensor* tensor, void* data, size_t element,
                                    std::array<int64_t, 2> dims, size_t rank,
                                    ort::ElementType type) {
  const bool same = tensor->value.get() != nullptr && tensor->data == data && tensor->dims == dims;
  if (same) return tensor->value.get();
  const ort::OrtApi* api = library_.api;
  size_t bytes = element;
  for (size_t i = 0; i < rank; ++i) bytes *= static_cast<size_t>(dims[i]);
  tensor->value = ort::ValueHandle(api);
  ort::Check(api,
             ort::CreateTensorWithData::Call(api, memory_info_.get(), data, bytes, dims.data(),
                                             rank, type, tensor->value.out()),
             ErrorCode::kStepFailed, "step tensors");
  tensor->data = data;
  tensor->dims = dims;
  return tensor->value.get();
}

void Graph::Run(StepInput* input, float* logits) {
  const ort::OrtApi* api = library_.api;
  // Without rows there may be no memory, which the library takes for a missing tensor.
  int32_t* const rows = input->num_rows > 0 ? input->logit_rows.data() : &no_row_;
  const ort::OrtValue* inputs[] = {
      Refresh(&input_ids_, input->input_ids.data(), sizeof(int32_t), {input->num_tokens, 0}, 1,
              ort::kElementInt32),
      Refresh(&logit_rows_, rows, sizeof(int32_t), {input->num_rows, 0}, 1,
              ort::kElementInt32)};
  ort::OrtValue* outputs[] = {const_cast<ort::OrtValue*>(
      Refresh(&logits_, logits, sizeof(float), {input->num_rows, config_.model.vocab_size}, 2,
              ort::kElementFloat))};
  ort::Check(api,
             ort::Run::Call(api, session_.get(), run_options_.get(), kInputs, inputs, 2, kOutputs,
                            1, outputs),
             ErrorCode::kStepFailed, "running the graph");
}

void Graph::Cancel() {
  const std::lock_guard lock(cancel_mutex_);
  cancelled_ = true;
  if (options_.get() != nullptr) {
    ort::Ignore(library_.api, ort::SetLoadCancellation::Call(library_.api, options_.get(), true));
  }
  if (run_options_.get() != nullptr) {
    ort::Ignore(library_.api,
                ort::RunOptionsSetTerminate::Call(library_.api, run_options_.get()));
  }
}

}  // namespace loramux
