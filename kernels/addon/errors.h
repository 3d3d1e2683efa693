// Native failures as JavaScript errors.
#pragma once

#include <napi.h>

#include <exception>

namespace loramux::addon {

// Where JavaScript called us: an Error made while its stack is there, filled in when it is known
// what went wrong. So a failure on another thread still shows who asked.
class CallSite {
 public:
  explicit CallSite(Napi::Env env);
  CallSite(CallSite&&) = default;

  // An Error with `.code` and the call's stack. `error` is a NativeError, std::bad_alloc or any
  // other std::exception (a defect; reported as native_step_failed).
  Napi::Value ToError(Napi::Env env, const std::exception_ptr& error) const;
  // The environment is going; forget the reference without touching it.
  void Drop() { error_.SuppressDestruct(); }

 private:
  Napi::ObjectReference error_;
};

// The same, for a failure on the JavaScript thread.
Napi::Value ToError(Napi::Env env, const std::exception_ptr& error);

}  // namespace loramux::addon
