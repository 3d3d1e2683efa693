#include "addon/session_host.h"

#include <utility>

namespace loramux::addon {

Completion::Completion(Napi::Env env, std::shared_ptr<SessionHost> host)
    : host_(std::move(host)), deferred_(Napi::Promise::Deferred::New(env)), site_(env) {}

void Completion::Settle(Napi::Env env, std::unique_ptr<Completion> /*self*/) {
  OnDone();
  if (!failed()) {
    try {
      deferred_.Resolve(Result(env));
      return;
    } catch (const Napi::Error& error) {
      deferred_.Reject(error.Value());
      return;
    } catch (...) {
      error_ = std::current_exception();
    }
  }
  Reject(env);
}

std::shared_ptr<SessionHost> SessionHost::Create(Napi::Env env, SessionConfig config,
                                                 LiveHosts* live) {
  std::shared_ptr<SessionHost> host(new SessionHost(env, live));
  host->session_ = std::make_unique<Session>(std::move(config));
  // Unlimited queue: at most one step, max_slots loads and one close are ever under way.
  host->channel_ = Channel::New(env, "loramux", 0, 1, host.get());
  host->channel_.Unref(env);
  // Added after the channel, so it runs before the channel goes when the environment ends.
  napi_add_env_cleanup_hook(env, &OnEnvironmentEnd, host.get());
  host->self_ = host;
  live->insert(host.get());
  return host;
}

void SessionHost::Keep(const Napi::Value& value) {
  if (value.IsObject()) kept_ = Napi::Persistent(value.As<Napi::Object>());
}

void SessionHost::Hold() {
  if (in_flight_++ == 0) channel_.Ref(env_);
}

void SessionHost::LetGo() {
  if (--in_flight_ == 0) channel_.Unref(env_);
}

void SessionHost::Post(Completion* completion) {
  auto message = std::make_unique<Message>(Message{shared_from_this(), completion});
  if (channel_.NonBlockingCall(message.get()) == napi_ok) {
    message.release();
    return;
  }
  // The environment has ended; see OnEnvironmentEnd.
  if (completion == nullptr) return;
  completion->Drop();
  delete completion;
}

void SessionHost::OnMessage(Napi::Env env, Napi::Function, SessionHost*, Message* raw) {
  const std::unique_ptr<Message> message(raw);
  std::unique_ptr<Completion> completion(message->completion);
  if (static_cast<napi_env>(env) == nullptr) {
    // The channel is being emptied after the environment's end.
    if (completion != nullptr) completion->Drop();
    return;
  }
  try {
    if (completion == nullptr) {
      message->host->FinishClose(env);
      return;
    }
    message->host->LetGo();
    Completion* const borrowed = completion.get();
    borrowed->Settle(env, std::move(completion));
  } catch (const Napi::Error&) {
    // Only when the environment is being stopped and runs no JavaScript any more.
  }
}

void SessionHost::StartClose() {
  session_->Close([this](std::exception_ptr) { Post(nullptr); });
}

void SessionHost::Close(std::function<void(Napi::Env)> then) {
  if (closed_) {
    then(env_);
    return;
  }
  Hold();
  close_waiters_.push_back(std::move(then));
  StartClose();
}

void SessionHost::Abandon() {
  if (!closed_) StartClose();
}

void SessionHost::CloseNow(Napi::Env env) {
  if (closed_) return;
  session_->CloseNow();
  FinishClose(env);
}

void SessionHost::FinishClose(Napi::Env env) {
  if (closed_) return;
  const std::shared_ptr<SessionHost> keep = std::move(self_);
  closed_ = true;
  live_->erase(this);
  session_->Join();
  kept_.Reset();
  napi_remove_env_cleanup_hook(env, &OnEnvironmentEnd, this);
  for (size_t i = 0; i < close_waiters_.size(); ++i) LetGo();
  channel_.Release();
  const auto waiters = std::move(close_waiters_);
  for (const auto& waiter : waiters) waiter(env);
}

void SessionHost::OnEnvironmentEnd(void* raw) {
  auto* host = static_cast<SessionHost*>(raw);
  const std::shared_ptr<SessionHost> keep = std::move(host->self_);
  host->closed_ = true;
  host->live_->erase(host);
  // After this no thread of ours is left that could use the channel.
  host->session_->CloseNow();
  // The environment takes its values along.
  host->kept_.SuppressDestruct();
  // Nobody is left to tell; a waiter may hold the host.
  host->close_waiters_.clear();
}

}  // namespace loramux::addon
