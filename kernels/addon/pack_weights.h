// packWeights and packLevels of src/native/addon-types.ts.
#pragma once

#include <napi.h>

namespace loramux::addon {

// Answer a promise; the work runs on a thread of the pool of libuv and on threads of its own.
Napi::Value PackWeights(const Napi::CallbackInfo& info);
Napi::Value PackLevels(const Napi::CallbackInfo& info);

}  // namespace loramux::addon
