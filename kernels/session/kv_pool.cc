#include "session/kv_pool.h"

#include <unistd.h>

#include <string>

#include "loramux/paged_attention.h"
#include "session/error.h"

namespace loramux {
namespace {

// The system overcommits; refuse what can never fit.
void RequireFitsMachine(int64_t bytes) {
  const int64_t physical = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  if (physical <= 0 || bytes <= physical) return;
  throw NativeError(ErrorCode::kOutOfMemory,
                    "the KV cache needs " + std::to_string(bytes) + " bytes, the machine has " +
                        std::to_string(physical) + "; lower numBlocks or use kvDtype bf16 or int8");
}

}  // namespace

KvPool::KvPool(const SessionConfig& config, const std::atomic<bool>& stop)
    : dtype_(config.kv_dtype),
      block_size_(config.block_size),
      num_kv_heads_(config.model.num_kv_heads),
      head_size_(config.model.head_size) {
  const size_t bytes =
      static_cast<size_t>(config.num_blocks) *
      static_cast<size_t>(KvBlockBytes(dtype_, block_size_, num_kv_heads_, head_size_));
  RequireFitsMachine(static_cast<int64_t>(bytes));
  bytes_ = static_cast<int64_t>(bytes) * 2 * config.model.num_layers;
  RequireFitsMachine(bytes_);
  keys_.reserve(config.model.num_layers);
  values_.reserve(config.model.num_layers);
  for (int32_t layer = 0; layer < config.model.num_layers; ++layer) {
    if (stop.load(std::memory_order_relaxed)) {
      throw NativeError(ErrorCode::kSessionClosed, "the session closed while its cache was made");
    }
    keys_.emplace_back(bytes, "the key cache");
    values_.emplace_back(bytes, "the value cache");
    // Now rather than block by block: a server that will not fit fails at start, and its resident
    // size does not creep up for hours while fresh blocks are preferred over cached ones.
    keys_.back().Populate("the key cache");
    values_.back().Populate("the value cache");
  }
}

void KvPool::CopyBlocks(const int32_t* pairs, int32_t num_pairs) {
  if (num_pairs == 0) return;
  for (size_t layer = 0; layer < keys_.size(); ++layer) {
    CopyKvBlocks(keys_[layer].data(), values_[layer].data(), dtype_, block_size_, num_kv_heads_,
                 head_size_, pairs, num_pairs);
  }
}

}  // namespace loramux
