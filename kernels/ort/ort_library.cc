#include "ort/ort_library.h"

#include <dlfcn.h>

#include <cstdio>

namespace loramux::ort {

Library OpenLibrary(const std::string& path) {
  if (path.empty() || path[0] != '/') {
    throw NativeError(ErrorCode::kOrtLibrary,
                      "ortLibraryPath must be an absolute path, got '" + path + "'");
  }
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = dlerror();
    throw NativeError(ErrorCode::kOrtLibrary, "cannot open ONNX Runtime: " +
                                                  std::string(reason ? reason : "unknown reason"));
  }
  using GetApiBaseFn = const OrtApiBase* (*)();
  auto get_base = reinterpret_cast<GetApiBaseFn>(dlsym(handle, "OrtGetApiBase"));
  if (get_base == nullptr) {
    throw NativeError(ErrorCode::kOrtLibrary,
                      "'" + path + "' is not ONNX Runtime: it has no symbol OrtGetApiBase");
  }
  const OrtApiBase* base = get_base();
  Library library;
  library.version = base->GetVersionString();
  int major = 0;
  int minor = 0;
  if (std::sscanf(library.version.c_str(), "%d.%d", &major, &minor) != 2 ||
      major != kMajorVersion || minor < kMinMinorVersion) {
    throw NativeError(ErrorCode::kOrtVersion,
                      "ONNX Runtime " + library.version + " at '" + path +
                          "' is not supported; use 1.22 or a later 1.x (1.30 is tested)");
  }
  library.api = base->GetApi(kApiVersion);
  if (library.api == nullptr) {
    throw NativeError(ErrorCode::kOrtVersion, "ONNX Runtime " + library.version + " at '" + path +
                                                  "' does not offer API version 22");
  }
  return library;
}

void Check(const OrtApi* api, OrtStatus* status, ErrorCode code, const char* what) {
  if (status == nullptr) return;
  std::string message = std::string(what) + ": " + GetErrorMessage::Call(api, status);
  ReleaseStatus::Call(api, status);
  throw NativeError(code, std::move(message));
}

void Ignore(const OrtApi* api, OrtStatus* status) {
  if (status != nullptr) ReleaseStatus::Call(api, status);
}

}  // namespace loramux::ort
