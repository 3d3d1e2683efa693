// Owning pointers for objects that ONNX Runtime hands out.
#pragma once

#include <utility>

#include "ort/ort_abi.h"

namespace loramux::ort {

template <typename T, typename Release>
class Handle {
 public:
  Handle() = default;
  explicit Handle(const OrtApi* api) : api_(api) {}
  Handle(Handle&& other) noexcept
      : api_(other.api_), pointer_(std::exchange(other.pointer_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      Reset();
      api_ = other.api_;
      pointer_ = std::exchange(other.pointer_, nullptr);
    }
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { Reset(); }

  T* get() const { return pointer_; }
  // Where a creating function stores its result; drops what was held.
  T** out() {
    Reset();
    return &pointer_;
  }
  void Reset() {
    if (pointer_ != nullptr) Release::Call(api_, std::exchange(pointer_, nullptr));
  }

 private:
  const OrtApi* api_ = nullptr;
  T* pointer_ = nullptr;
};

using EnvHandle = Handle<OrtEnv, ReleaseEnv>;
using SessionHandle = Handle<OrtSession, ReleaseSession>;
using SessionOptionsHandle = Handle<OrtSessionOptions, ReleaseSessionOptions>;
using RunOptionsHandle = Handle<OrtRunOptions, ReleaseRunOptions>;
using MemoryInfoHandle = Handle<OrtMemoryInfo, ReleaseMemoryInfo>;
using ValueHandle = Handle<OrtValue, ReleaseValue>;
using ShapeInfoHandle = Handle<OrtTensorShapeInfo, ReleaseTensorShapeInfo>;
using DomainHandle = Handle<OrtCustomOpDomain, ReleaseCustomOpDomain>;

}  // namespace loramux::ort
