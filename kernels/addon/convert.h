// Between the objects of src/native/addon-types.ts and the session's structs.
#pragma once

#include <napi.h>

#include "session/adapter_slab.h"
#include "session/config.h"
#include "session/session.h"
#include "session/step_input.h"
#include "session/step_output.h"

namespace loramux::addon {

// Pairs of one adapter image, before the session checks them one by one.
inline constexpr uint32_t kMaxPairs = 1 << 16;

// Borrows the words of the masks: `*mask_words` is their array, to be kept alive as long as the
// session, or undefined.
SessionConfig ToSessionConfig(const Napi::Value& options, Napi::Value* mask_words);
// Borrows the packet's arrays.
StepPacketView ToPacketView(const Napi::Value& packet);
// Borrows the image's bytes, if it has any: `*bytes` is their array, to be kept alive until the
// load has ended, else undefined.
AdapterImage ToAdapterImage(const Napi::Value& image, Napi::Value* bytes);

Napi::Object FromInfo(Napi::Env env, const SessionConfig& config, const SessionInfo& info);
// Takes the logits out of `output`.
Napi::Object FromOutput(Napi::Env env, StepOutput* output, int32_t vocab);

}  // namespace loramux::addon
