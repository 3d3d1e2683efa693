#include "addon/errors.h"

#include <new>
#include <string>

#include "session/error.h"

namespace loramux::addon {
namespace {

struct Failure {
  ErrorCode code = ErrorCode::kStepFailed;
  std::string message;
};

Failure Describe(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const NativeError& native) {
    return {native.code(), native.what()};
  } catch (const std::bad_alloc&) {
    return {ErrorCode::kOutOfMemory, "out of memory"};
  } catch (const std::exception& other) {
    return {ErrorCode::kStepFailed, other.what()};
  } catch (...) {
    return {ErrorCode::kStepFailed, "an unknown failure in the native module"};
  }
}

}  // namespace

CallSite::CallSite(Napi::Env env)
    : error_(Napi::Persistent(Napi::Error::New(env, "pending").Value())) {}

Napi::Value CallSite::ToError(Napi::Env env, const std::exception_ptr& error) const {
  const Failure failure = Describe(error);
  Napi::Object object = error_.Value();
  object.Set("code", ErrorCodeName(failure.code));
  try {
    // The stack was written with the placeholder message on its first line. Reading it for the
    // first time runs Error.prepareStackTrace, the application's code, which may throw.
    const std::string stack = object.Get("stack").ToString().Utf8Value();
    const size_t frames = stack.find("\n    at ");
    object.Set("stack", "Error: " + failure.message +
                            (frames == std::string::npos ? "" : stack.substr(frames)));
  } catch (const Napi::Error&) {
    // The stack stays as it is: a promise that never settles would be worse.
  }
  object.Set("message", failure.message);
  return Napi::Value(env, object);
}

Napi::Value ToError(Napi::Env env, const std::exception_ptr& error) {
  const Failure failure = Describe(error);
  Napi::Object object = Napi::Error::New(env, failure.message).Value();
  object.Set("code", ErrorCodeName(failure.code));
  return object;
}

}  // namespace loramux::addon
