// Errors that cross the native boundary: a stable code (NativeErrorCode in addon-types.ts) and a
// sentence.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace loramux {

enum class ErrorCode {
  kOrtLibrary,
  kOrtVersion,
  kModelLoad,
  kInvalidArgument,
  kStepFailed,
  kAdapterLoad,
  kSlotBusy,
  kSessionClosed,
  kOutOfMemory,
};

const char* ErrorCodeName(ErrorCode code);

class NativeError : public std::exception {
 public:
  NativeError(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}
  ErrorCode code() const { return code_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  ErrorCode code_;
  std::string message_;
};

}  // namespace loramux
