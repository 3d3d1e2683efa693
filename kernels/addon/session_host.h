// Ties a Session to one JavaScript environment: carries its completions to the JavaScript thread,
// keeps the event loop alive while something is in flight, and closes the session whichever way
// its end comes: close(), garbage collection, or the end of the environment.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <set>
#include <vector>

#include "addon/errors.h"
#include "session/session.h"

namespace loramux::addon {

class SessionHost;

// Sessions of one environment that are not closed.
using LiveHosts = std::set<SessionHost*>;

// Something started for JavaScript that settles a promise. Made and settled on the JavaScript
// thread; `error` is set on a session thread in between.
class Completion {
 public:
  Completion(Napi::Env env, std::shared_ptr<SessionHost> host);
  virtual ~Completion() = default;

  Napi::Promise promise() const { return deferred_.Promise(); }
  void set_error(std::exception_ptr error) { error_ = std::move(error); }
  // Resolves with Result, or rejects with the error. `self` owns this object.
  virtual void Settle(Napi::Env env, std::unique_ptr<Completion> self);
  void Reject(Napi::Env env) { deferred_.Reject(site_.ToError(env, error_)); }
  // The environment ended first: nobody is left to tell. References to its values are forgotten
  // without touching them.
  virtual void Drop() { site_.Drop(); }

 protected:
  // Runs before the promise is settled, either way.
  virtual void OnDone() {}
  // The value the promise resolves with.
  virtual Napi::Value Result(Napi::Env env) = 0;
  bool failed() const { return error_ != nullptr; }

  std::shared_ptr<SessionHost> host_;

 private:
  Napi::Promise::Deferred deferred_;
  CallSite site_;
  std::exception_ptr error_;
};

class SessionHost : public std::enable_shared_from_this<SessionHost> {
 public:
  // JavaScript thread. The host is in `live`, which outlives it, until it is closed. Throws what
  // Session's constructor throws.
  static std::shared_ptr<SessionHost> Create(Napi::Env env, SessionConfig config,
                                             LiveHosts* live);

  Session& session() { return *session_; }
  // Keeps a value of JavaScript until the session is closed: it reads the value's memory.
  void Keep(const Napi::Value& value);

  // Calls start(raw) with the completion, which must hand it to the session; the event loop stays
  // alive until it comes back through Post. When start throws, nothing was started and the promise
  // rejects.
  template <typename Start>
  Napi::Promise Begin(Napi::Env env, std::unique_ptr<Completion> completion, Start start) {
    const Napi::Promise promise = completion->promise();
    try {
      start(completion.get());
    } catch (...) {
      completion->set_error(std::current_exception());
      completion->Reject(env);
      return promise;
    }
    completion.release();
    Hold();
    return promise;
  }
  // From any thread, once per completion: settles it on the JavaScript thread.
  void Post(Completion* completion);

  // Starts to close, or joins a close under way; `then` runs on the JavaScript thread at the end,
  // at once when closed already.
  void Close(std::function<void(Napi::Env)> then);
  // The session object was collected: closes without anybody waiting. Runs no JavaScript.
  void Abandon();
  // Closes on the spot, cancelling what is under way, and waits.
  void CloseNow(Napi::Env env);

 private:
  struct Message {
    std::shared_ptr<SessionHost> host;
    Completion* completion = nullptr;  // null: the session has closed
  };
  static void OnMessage(Napi::Env env, Napi::Function, SessionHost*, Message* message);
  using Channel = Napi::TypedThreadSafeFunction<SessionHost, Message, &SessionHost::OnMessage>;
  static void OnEnvironmentEnd(void* host);

  SessionHost(Napi::Env env, LiveHosts* live) : env_(env), live_(live) {}
  void StartClose();
  void FinishClose(Napi::Env env);
  void Hold();
  void LetGo();

  napi_env env_;
  LiveHosts* live_;
  std::unique_ptr<Session> session_;
  Channel channel_;
  int32_t in_flight_ = 0;
  Napi::ObjectReference kept_;
  bool closed_ = false;
  std::vector<std::function<void(Napi::Env)>> close_waiters_;
  // Itself, until closed: threads of the session and the environment hook use it.
  std::shared_ptr<SessionHost> self_;
};

}  // namespace loramux::addon
