// The addon's exports: probe, createSession, the session object, packWeights and packLevels.
// Types: addon-types.ts.
#include <napi.h>

#include <cstdlib>
#include <memory>
#include <utility>

#include "addon/convert.h"
#include "addon/errors.h"
#include "addon/js_values.h"
#include "addon/machine.h"
#include "addon/pack_weights.h"
#include "addon/session_host.h"
#include "ort/ort_library.h"

namespace loramux::addon {
namespace {

// What one JavaScript environment (main thread or worker) needs; there are no globals.
struct AddonData {
  Napi::FunctionReference session_class;
  // Handed from createSession to the constructor; empty when JavaScript calls the constructor.
  std::shared_ptr<SessionHost> host_for_constructor;
  LiveHosts live;
};

// Runs `body`; native failures become JavaScript exceptions.
template <typename Body>
Napi::Value Throwing(Napi::Env env, Body body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw Napi::Error(env, ToError(env, std::current_exception()));
  }
}

// Runs `body`, which answers a promise; native failures become a rejected one.
template <typename Body>
Napi::Value Rejecting(Napi::Env env, Body body) {
  const auto rejected = [&](const Napi::Value& reason) {
    const auto deferred = Napi::Promise::Deferred::New(env);
    deferred.Reject(reason);
    return deferred.Promise();
  };
  try {
    return body();
  } catch (const Napi::Error& error) {
    return rejected(error.Value());
  } catch (...) {
    return rejected(ToError(env, std::current_exception()));
  }
}

class StepCompletion : public Completion {
 public:
  using Completion::Completion;

 protected:
  void OnDone() override { host_->session().EndStep(); }
  Napi::Value Result(Napi::Env env) override {
    Session& session = host_->session();
    return FromOutput(env, &session.output(), session.config().model.vocab_size);
  }
};

class AdapterCompletion : public Completion {
 public:
  using Completion::Completion;
  void set_result(const AdapterLoadResult& result) { result_ = result; }
  // Keeps the array that the load thread reads from.
  void Keep(const Napi::Value& bytes) {
    if (bytes.IsObject()) bytes_ = Napi::Persistent(bytes.As<Napi::Object>());
  }
  void Drop() override {
    bytes_.SuppressDestruct();
    Completion::Drop();
  }

 protected:
  Napi::Value Result(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    object.Set("bytes", static_cast<double>(result_.bytes));
    object.Set("loadMs", result_.load_ms);
    return object;
  }

 private:
  AdapterLoadResult result_;
  Napi::ObjectReference bytes_;
};

class SessionWrap : public Napi::ObjectWrap<SessionWrap> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeSession",
                       {InstanceMethod<&SessionWrap::Step>("step"),
                        InstanceMethod<&SessionWrap::LoadAdapter>("loadAdapter"),
                        InstanceMethod<&SessionWrap::FreeAdapter>("freeAdapter"),
                        InstanceMethod<&SessionWrap::Close>("close")});
  }

  explicit SessionWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SessionWrap>(info) {
    host_ = std::move(info.Env().GetInstanceData<AddonData>()->host_for_constructor);
    if (host_ == nullptr) {
      throw Napi::TypeError::New(info.Env(), "sessions are made by createSession");
    }
  }

  ~SessionWrap() override {
    if (host_ != nullptr) host_->Abandon();
  }

 private:
  Napi::Value Step(const Napi::CallbackInfo& info);
  Napi::Value LoadAdapter(const Napi::CallbackInfo& info);
  Napi::Value FreeAdapter(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  std::shared_ptr<SessionHost> host_;
};

Napi::Value SessionWrap::Step(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return Rejecting(env, [&]() -> Napi::Value {
    const StepPacketView packet = ToPacketView(info[0]);
    const bool want_logits = info[1].IsBoolean() && info[1].As<Napi::Boolean>().Value();
    SessionHost* host = host_.get();
    auto completion = std::make_unique<StepCompletion>(env, host_);
    return host->Begin(env, std::move(completion), [&](Completion* completion) {
      host->session().Step(packet, want_logits, [host, completion](std::exception_ptr error) {
        completion->set_error(std::move(error));
        host->Post(completion);
      });
    });
  });
}

Napi::Value SessionWrap::LoadAdapter(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return Rejecting(env, [&]() -> Napi::Value {
    const int32_t slot = ToInt32(info[0], "slot");
    Napi::Value bytes;
    AdapterImage image = ToAdapterImage(info[1], &bytes);
    SessionHost* host = host_.get();
    auto completion = std::make_unique<AdapterCompletion>(env, host_);
    completion->Keep(bytes);
    AdapterCompletion* raw = completion.get();
    return host->Begin(env, std::move(completion), [&](Completion*) {
      host->session().LoadAdapter(
          slot, std::move(image), [host, raw](AdapterLoadResult result, std::exception_ptr error) {
            raw->set_result(result);
            raw->set_error(std::move(error));
            host->Post(raw);
          });
    });
  });
}

Napi::Value SessionWrap::FreeAdapter(const Napi::CallbackInfo& info) {
  return Throwing(info.Env(), [&]() -> Napi::Value {
    host_->session().FreeAdapter(ToInt32(info[0], "slot"));
    return info.Env().Undefined();
  });
}

Napi::Value SessionWrap::Close(const Napi::CallbackInfo& info) {
  const auto deferred = Napi::Promise::Deferred::New(info.Env());
  if (info[0].IsBoolean() && info[0].As<Napi::Boolean>().Value()) host_->session().Cancel();
  host_->Close([deferred](Napi::Env env) { deferred.Resolve(env.Undefined()); });
  return deferred.Promise();
}

class CreateCompletion : public Completion {
 public:
  using Completion::Completion;

  void Settle(Napi::Env env, std::unique_ptr<Completion> self) override {
    if (!failed()) {
      Completion::Settle(env, std::move(self));
      return;
    }
    // Everything is released before the caller hears of the failure.
    const std::shared_ptr<Completion> kept = std::move(self);
    host_->Close([this, kept](Napi::Env later) { Reject(later); });
  }

 protected:
  Napi::Value Result(Napi::Env env) override {
    auto* data = env.GetInstanceData<AddonData>();
    data->host_for_constructor = host_;
    const Napi::Object object = data->session_class.New({});
    const Session& session = host_->session();
    object.DefineProperty(Napi::PropertyDescriptor::Value(
        "info", FromInfo(env, session.config(), session.info()), napi_enumerable));
    return object;
  }
};

Napi::Value CreateSession(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return Rejecting(env, [&]() -> Napi::Value {
    Napi::Value mask_words;
    SessionConfig config = ToSessionConfig(info[0], &mask_words);
    const std::shared_ptr<SessionHost> shared = SessionHost::Create(
        env, std::move(config), &env.GetInstanceData<AddonData>()->live);
    shared->Keep(mask_words);
    SessionHost* host = shared.get();
    return host->Begin(env, std::make_unique<CreateCompletion>(env, shared),
                       [host](Completion* completion) {
                         host->session().Load([host, completion](std::exception_ptr error) {
                           completion->set_error(std::move(error));
                           host->Post(completion);
                         });
                       });
  });
}

Napi::Value Probe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return Throwing(env, [&]() -> Napi::Value {
    if (!info[0].IsString()) FailType("ortLibraryPath", "a string");
    const ort::Library library = ort::OpenLibrary(info[0].As<Napi::String>().Utf8Value());
    Napi::Object object = Napi::Object::New(env);
    object.Set("ortVersion", library.version);
    object.Set("ortBuildInfo", ort::GetBuildInfoString::Call(library.api));
    const auto list = [&](const std::vector<std::string>& items) {
      Napi::Array array = Napi::Array::New(env, items.size());
      for (uint32_t i = 0; i < items.size(); ++i) array.Set(i, items[i]);
      return array;
    };
    object.Set("isas", list(AvailableIsas()));
    object.Set("cpuFeatures", list(CpuFeatures()));
    return object;
  });
}

Napi::Value CloseAllNow(const Napi::CallbackInfo& info) {
  LiveHosts& live = info.Env().GetInstanceData<AddonData>()->live;
  // Closing takes a host out of the set.
  while (!live.empty()) (*live.begin())->CloseNow(info.Env());
  return info.Env().Undefined();
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  // Release builds of ONNX Runtime upload usage data unless this is set before they are opened.
  // An operator who wants that sets ORT_DISABLE_TELEMETRY=0.
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);
  auto data = std::make_unique<AddonData>();
  data->session_class = Napi::Persistent(SessionWrap::Define(env));
  env.SetInstanceData(data.release());
  exports.Set("probe", Napi::Function::New(env, Probe, "probe"));
  exports.Set("createSession", Napi::Function::New(env, CreateSession, "createSession"));
  exports.Set("packWeights", Napi::Function::New(env, PackWeights, "packWeights"));
  exports.Set("packLevels", Napi::Function::New(env, PackLevels, "packLevels"));
  exports.Set("closeAllNow", Napi::Function::New(env, CloseAllNow, "closeAllNow"));
  return exports;
}

}  // namespace

NODE_API_MODULE(loramux, Init)

}  // namespace loramux::addon
