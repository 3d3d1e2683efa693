#include "session/error.h"

namespace loramux {

const char* ErrorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kOrtLibrary:
      return "native_ort_library";
    case ErrorCode::kOrtVersion:
      return "native_ort_version";
    case ErrorCode::kModelLoad:
      return "native_model_load";
    case ErrorCode::kInvalidArgument:
      return "native_invalid_argument";
    case ErrorCode::kStepFailed:
      return "native_step_failed";
    case ErrorCode::kAdapterLoad:
      return "native_adapter_load";
    case ErrorCode::kSlotBusy:
      return "native_slot_busy";
    case ErrorCode::kSessionClosed:
      return "native_session_closed";
    case ErrorCode::kOutOfMemory:
      return "native_out_of_memory";
  }
  return "native_step_failed";
}

}  // namespace loramux
