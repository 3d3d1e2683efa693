// One base model, its cache and its adapters. Owns the step thread (the only one that touches the
// ONNX Runtime session and the cache while it lives), the load threads and all memory.
//
// Except where noted, methods are called from one thread, the owner (the JavaScript thread). They
// return at once; what they start reports through a callback on one of the session's threads,
// exactly once, also when the session closes first.
//
// Teardown, in this order:
//   1. the owner marks the session closing: new steps and loads are refused;
//   2. the step thread finishes the step under way;
//   3. it stops and joins the load threads: loads under way end with kSessionClosed;
//   4. the ONNX Runtime session goes, then its options, the operators, the environment;
//   5. the step's helpers are joined;
//   6. adapter memory, then the KV cache, are unmapped;
//   7. the close callback runs, the step thread ends, the owner joins it.
// The library itself is never unloaded.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "session/config.h"
#include "session/graph.h"
#include "session/kv_pool.h"
#include "session/memory.h"
#include "session/row_sampler.h"
#include "session/slot_table.h"
#include "session/step_context.h"
#include "session/step_input.h"
#include "session/step_output.h"
#include "session/step_pool.h"
#include "session/threads.h"

namespace loramux {

struct SessionInfo {
  std::string ort_version;
  int64_t kv_bytes = 0;
  double load_ms = 0.0;
};

struct AdapterLoadResult {
  int64_t bytes = 0;
  double load_ms = 0.0;
};

class Session {
 public:
  // Null when all went well, else a NativeError or std::bad_alloc.
  using Done = std::function<void(std::exception_ptr error)>;
  using AdapterDone = std::function<void(AdapterLoadResult result, std::exception_ptr error)>;

  // Checks the configuration and starts the threads. Throws kInvalidArgument, kOutOfMemory.
  explicit Session(SessionConfig config);
  // Closes and waits.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Loads the model on the step thread; call once, before anything else.
  void Load(Done done);
  const SessionConfig& config() const { return config_; }
  // Complete once Load is done.
  const SessionInfo& info() const { return info_; }

  // Checks and copies the packet, then queues the step. The output stays valid, and the adapters
  // the step names stay pinned, until EndStep. Throws kInvalidArgument, kSessionClosed, kSlotBusy
  // (a step is in flight); nothing is queued then.
  void Step(const StepPacketView& packet, bool want_logits, Done done);
  StepOutput& output() { return output_; }
  // The owner has taken the output.
  void EndStep() { step_in_flight_ = false; }

  // Reads an adapter into an empty slot. Throws what is wrong at once (arguments, slot).
  void LoadAdapter(int32_t slot, AdapterImage image, AdapterDone done);
  // Throws kInvalidArgument (no such slot, empty), kSlotBusy (loading, or a step in flight names
  // it), kSessionClosed.
  void FreeAdapter(int32_t slot);

  // Starts the teardown; `done` runs when everything is released. Later calls do nothing and drop
  // `done`.
  void Close(Done done);
  bool closing() const { return closing_; }
  // Has the model's load or the step under way end as soon as the graph comes to its next operator:
  // it fails, as all later steps do. For a session that is about to close.
  void Cancel();
  // Waits for the end of a teardown that was started. Idempotent.
  void Join();
  // Close without a callback, hurried: cancels a load or step under way, then waits.
  void CloseNow();

 private:
  void Post(std::function<void()> job);
  void StepLoop();
  void RunStep();
  void Compute();
  void Teardown();
  void RequireOpen() const;

  SessionConfig config_;
  SessionInfo info_;
  bool closing_ = false;          // owner thread only
  bool step_in_flight_ = false;   // owner thread only

  StepContext context_;
  StepInput input_;
  StepOutput output_;
  SlotTable slots_;
  MappedBuffer logits_;     // [max rows, vocab]
  MappedBuffer rope_table_;  // [max tokens, rotary_dim]
  std::unique_ptr<KvPool> kv_;
  std::mutex graph_mutex_;  // graph_ is dropped by the step thread and cancelled by the owner
  std::unique_ptr<Graph> graph_;
  std::unique_ptr<StepPool> pool_;
  std::unique_ptr<RowSampler> sampler_;
  TaskThreads loads_;

  // The step in flight, written before it is posted. A place of its own, because a queue would
  // allocate for each step.
  bool want_logits_ = false;
  Done step_done_;
  std::chrono::steady_clock::time_point last_step_end_{};  // step thread only

  std::mutex mutex_;
  std::condition_variable wake_;
  bool step_posted_ = false;
  std::deque<std::function<void()>> jobs_;
  bool ended_ = false;
  std::thread step_thread_;
};

}  // namespace loramux
