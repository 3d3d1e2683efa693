// Memory of the key/value cache: per layer one array for keys and one for values, num_blocks of
// KvBlockBytes (loramux/paged_attention.h). Which block belongs to whom is decided in TypeScript;
// here are only bytes.
#pragma once

#include <atomic>
#include <vector>

#include "session/config.h"
#include "session/memory.h"

namespace loramux {

class KvPool {
 public:
  // Backs every page, which takes seconds for a large cache. Throws kOutOfMemory, or kSessionClosed
  // when `stop` became true.
  KvPool(const SessionConfig& config, const std::atomic<bool>& stop);

  void* Keys(int32_t layer) const { return keys_[layer].data(); }
  void* Values(int32_t layer) const { return values_[layer].data(); }
  int64_t bytes() const { return bytes_; }

  // In every layer, block pairs[2i + 1] becomes a copy of block pairs[2i], in this order.
  void CopyBlocks(const int32_t* pairs, int32_t num_pairs);

 private:
  std::vector<MappedBuffer> keys_;
  std::vector<MappedBuffer> values_;
  int64_t bytes_ = 0;
  KvDtype dtype_;
  int32_t block_size_;
  int32_t num_kv_heads_;
  int32_t head_size_;
};

}  // namespace loramux
