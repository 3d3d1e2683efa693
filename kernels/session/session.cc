#include "session/session.h"

#include <chrono>
#include <cstring>
#include <system_error>
#include <utility>

#include "loramux/paged_attention.h"
#include "session/error.h"

namespace loramux {
namespace {

using Clock = std::chrono::steady_clock;

class Stopwatch {
 public:
  Clock::time_point start() const { return start_; }
  double Ms() const {
    return std::chrono::duration<double, std::milli>(Clock::now() - start_).count();
  }

 private:
  Clock::time_point start_ = Clock::now();
};

// Checks before any member is built from the values.
SessionConfig Validated(SessionConfig config) {
  ValidateConfig(config);
  return config;
}

RopeConfig MakeRopeConfig(const ModelConfig& model) {
  RopeConfig rope;
  rope.inv_freq = model.inv_freq.data();
  rope.rotary_dim = static_cast<int32_t>(model.inv_freq.size() * 2);
  rope.attention_scaling = model.attention_scaling;
  if (model.dynamic_rope) {
    rope.dynamic_base = model.dynamic_base;
    rope.dynamic_factor = model.dynamic_factor;
    rope.dynamic_max_positions = model.dynamic_max_positions;
  }
  return rope;
}

}  // namespace

Session::Session(SessionConfig config)
    : config_(Validated(std::move(config))),
      input_(config_),
      slots_(config_.max_slots),
      loads_(kLoadThreads, "loramux-load") {
  context_.config = &config_;
  context_.rotary_dim = static_cast<int32_t>(config_.model.inv_freq.size() * 2);
  graph_ = std::make_unique<Graph>(config_, &context_);
  try {
    step_thread_ = std::thread([this] {
      BeginThread("loramux-step", kComputeNiceness);
      StepLoop();
    });
  } catch (const std::system_error& error) {
    throw NativeError(ErrorCode::kOutOfMemory,
                      std::string("cannot start a thread: ") + error.what());
  }
}

Session::~Session() { CloseNow(); }

void Session::Load(Done done) {
  Post([this, done = std::move(done)] {
    std::exception_ptr error;
    try {
      const Stopwatch watch;
      kv_ = std::make_unique<KvPool>(config_, loads_.stop());
      context_.kv = kv_.get();
      logits_ = MappedBuffer(sizeof(float) * static_cast<size_t>(config_.max_rows_per_step) *
                                 static_cast<size_t>(config_.model.vocab_size),
                             "the logits");
      rope_table_ = MappedBuffer(sizeof(float) * static_cast<size_t>(config_.max_tokens_per_step) *
                                     static_cast<size_t>(context_.rotary_dim),
                                 "the rope table");
      // Made here, on the step thread, so that the helpers inherit its niceness.
      pool_ = std::make_unique<StepPool>(config_.intra_op_threads);
      if (config_.model.packed_weights) context_.parallel = pool_->parallel();
      sampler_ = std::make_unique<RowSampler>(config_, pool_.get());
      graph_->Load();
      std::vector<uint8_t>().swap(config_.model.model_bytes);
      info_ = {graph_->ort_version(), kv_->bytes(), watch.Ms()};
    } catch (...) {
      error = std::current_exception();
    }
    done(error);
  });
}

void Session::Step(const StepPacketView& packet, bool want_logits, Done done) {
  RequireOpen();
  if (step_in_flight_) {
    throw NativeError(ErrorCode::kInvalidArgument, "a step is in flight; one may run at a time");
  }
  input_.Assign(packet, slots_);
  want_logits_ = want_logits;
  step_done_ = std::move(done);
  step_in_flight_ = true;
  {
    const std::lock_guard lock(mutex_);
    step_posted_ = true;
  }
  wake_.notify_one();
}

void Session::RunStep() {
  std::exception_ptr error;
  const Stopwatch watch;
  output_.gap_ms = last_step_end_ == Clock::time_point{}
                       ? 0.0
                       : std::chrono::duration<double, std::milli>(watch.start() - last_step_end_)
                             .count();
  try {
    Compute();
    output_.native_ms = watch.Ms();
  } catch (...) {
    error = std::current_exception();
  }
  context_.input = nullptr;
  last_step_end_ = Clock::now();
  // Taken out first: once it has run, the owner may post the next step.
  const Done done = std::move(step_done_);
  done(error);
}

void Session::Compute() {
  kv_->CopyBlocks(input_.block_copies.data(), input_.num_block_copies);
  if (context_.rotary_dim > 0) {
    RopeTable(MakeRopeConfig(config_.model), input_.positions.data(), input_.rope_lengths.data(),
              input_.num_tokens, rope_table_.floats());
  }
  context_.cos_sin = rope_table_.floats();
  context_.input = &input_;
  if (config_.model.packed_weights) {
    const PoolAwake awake(pool_.get());
    graph_->Run(&input_, logits_.floats());
    sampler_->Sample(input_, logits_.floats(), &output_);
  } else {
    // ONNX Runtime's threads need the cores; the helpers only sample.
    graph_->Run(&input_, logits_.floats());
    sampler_->Sample(input_, logits_.floats(), &output_);
  }
  output_.logits.reset();
  if (want_logits_) {
    const size_t count =
        static_cast<size_t>(input_.num_rows) * static_cast<size_t>(config_.model.vocab_size);
    output_.logits.reset(new float[count]);
    std::memcpy(output_.logits.get(), logits_.floats(), count * sizeof(float));
  }
}

void Session::LoadAdapter(int32_t slot, AdapterImage image, AdapterDone done) {
  RequireOpen();
  ValidateImage(image, config_.model);
  slots_.BeginLoad(slot);
  auto task = [this, slot, image = std::move(image), done = std::move(done)] {
    AdapterLoadResult result;
    std::exception_ptr error;
    try {
      const Stopwatch watch;
      std::unique_ptr<AdapterSlab> slab =
          ReadAdapter(image, config_.model, config_.lora_dtype, config_.isa, loads_.stop());
      result.bytes = slab->bytes();
      slots_.FinishLoad(slot, std::move(slab));
      result.load_ms = watch.Ms();
    } catch (...) {
      slots_.AbandonLoad(slot);
      error = std::current_exception();
    }
    done(result, error);
  };
  bool taken = false;
  try {
    // At most max_slots loads wait: each holds a slot.
    taken = loads_.Submit(std::move(task));
  } catch (...) {
    slots_.AbandonLoad(slot);
    throw;
  }
  if (!taken) {
    slots_.AbandonLoad(slot);
    RequireOpen();
  }
}

void Session::FreeAdapter(int32_t slot) {
  RequireOpen();
  if (step_in_flight_) {
    for (const StepSegment& segment : input_.segments) {
      if (segment.slot != slot) continue;
      throw NativeError(ErrorCode::kSlotBusy,
                        "slot " + std::to_string(slot) + " is read by the step in flight");
    }
  }
  // Unmapping a large adapter takes milliseconds, so a load thread does it.
  std::shared_ptr<AdapterSlab> slab = slots_.Free(slot);
  loads_.Submit([slab = std::move(slab)]() mutable { slab.reset(); });
}

void Session::RequireOpen() const {
  if (closing_) throw NativeError(ErrorCode::kSessionClosed, "the session is closed");
}

void Session::Close(Done done) {
  if (closing_) return;
  closing_ = true;
  loads_.RequestStop();
  Post([this, done = std::move(done)] {
    Teardown();
    if (done) done(nullptr);
    const std::lock_guard lock(mutex_);
    ended_ = true;
  });
}

void Session::Teardown() {
  loads_.StopAndJoin();
  std::unique_ptr<Graph> graph;
  {
    const std::lock_guard lock(graph_mutex_);
    graph = std::move(graph_);
  }
  graph.reset();
  sampler_.reset();
  context_.parallel = Parallel{};
  pool_.reset();
  slots_.Clear();
  context_.kv = nullptr;
  kv_.reset();
  logits_ = MappedBuffer();
  rope_table_ = MappedBuffer();
}

void Session::Join() {
  if (step_thread_.joinable()) step_thread_.join();
}

void Session::Cancel() {
  const std::lock_guard lock(graph_mutex_);
  if (graph_ != nullptr) graph_->Cancel();
}

void Session::CloseNow() {
  if (!step_thread_.joinable()) return;
  Cancel();
  Close(nullptr);
  Join();
}

void Session::Post(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
}

void Session::StepLoop() {
  for (;;) {
    std::function<void()> job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return ended_ || step_posted_ || !jobs_.empty(); });
      if (ended_) return;
      // Jobs besides steps are the first one, which loads, and the last one, which tears down; a
      // step that was posted before the last one runs before it.
      if (step_posted_) {
        step_posted_ = false;
      } else {
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
    }
    if (job) {
      job();
    } else {
      RunStep();
    }
  }
}

}  // namespace loramux
