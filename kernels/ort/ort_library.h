// Opens libonnxruntime.so.1 and checks that it is a version whose table this project knows.
#pragma once

#include <string>

#include "ort/ort_abi.h"
#include "session/error.h"

namespace loramux::ort {

// The first release with API version kApiVersion, and the major version the ABI promise covers.
inline constexpr int kMajorVersion = 1;
inline constexpr int kMinMinorVersion = 22;

struct Library {
  const OrtApi* api = nullptr;
  std::string version;  // e.g. "1.30.0"
};

// Opens the library at an absolute path. Throws kOrtLibrary when it cannot be opened, kOrtVersion
// when its version is not one we know. The library stays loaded until the process ends: it keeps
// threads and static state that must not disappear under it.
Library OpenLibrary(const std::string& path);

// Throws NativeError(code) with the library's message when `status` is an error; frees it.
void Check(const OrtApi* api, OrtStatus* status, ErrorCode code, const char* what);

// Frees `status`; its message is lost. For clean-up paths that cannot fail usefully.
void Ignore(const OrtApi* api, OrtStatus* status);

}  // namespace loramux::ort
