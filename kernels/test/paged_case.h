// A batch of sequences over a paged cache, with its own memory, for tests and benchmark.
#pragma once

#include <cstdint>
#include <vector>

#include "loramux/paged_attention.h"
#include "test/support.h"

namespace loramux::test {

struct AttentionShape {
  int32_t num_heads = 4;
  int32_t num_kv_heads = 2;
  int32_t head_size = 64;
  int32_t rotary_dim = 64;
  int32_t block_size = 16;
  int32_t sliding_window = 0;
  KvDtype kv_dtype = KvDtype::kF32;
  bool norm = false;
};

// One sequence's whole life: what every token projects to, whatever call it is computed in.
struct SequenceData {
  std::vector<float> q, k, v;   // [length, heads or kv heads, head_size]
  std::vector<int32_t> blocks;  // physical block of each logical block
  int32_t length = 0;
};

// Tokens [begin, end) of a sequence, taking part in one call.
struct Chunk {
  int32_t sequence;
  int32_t begin;
  int32_t end;
};

// Arguments of one call and the memory they point into. The cache stays the case's own.
struct PreparedStep {
  std::vector<float> q, k, v, cos_sin, out, workspace;
  std::vector<int32_t> query_start, context_lens, tables, slots;
  PagedAttentionArgs args;
};

class PagedCase {
 public:
  // Cache memory starts as NaN, so reading a slot that was not written shows.
  PagedCase(const AttentionShape& shape, const std::vector<int32_t>& lengths, Random* random);

  // Runs one call over `chunks`; returns out [tokens, heads, head_size]. isa null: the reference.
  std::vector<float> Step(const std::vector<Chunk>& chunks, const Parallel& parallel,
                          const Isa* isa);
  PreparedStep Prepare(const std::vector<Chunk>& chunks, int32_t threads, Isa isa);
  // All tokens of a sequence cut at `cuts` (ascending, inside the sequence), concatenated.
  std::vector<float> RunInChunks(int32_t sequence, const std::vector<int32_t>& cuts, Isa isa);

  void ClearCache();
  void PoisonBlock(int32_t block);
  SequenceData& sequence(int32_t i) { return sequences_[static_cast<size_t>(i)]; }
  const std::vector<uint8_t>& k_cache() const { return k_cache_; }
  std::vector<uint8_t>& k_cache() { return k_cache_; }
  std::vector<uint8_t>& v_cache() { return v_cache_; }
  int64_t BlockBytes() const;
  int32_t num_blocks() const { return num_blocks_; }
  const AttentionShape& shape() const { return shape_; }

 private:
  AttentionShape shape_;
  std::vector<SequenceData> sequences_;
  std::vector<float> q_norm_, k_norm_, inv_freq_;
  std::vector<uint8_t> k_cache_, v_cache_;
  int32_t num_blocks_ = 0;
};

// Instruction sets that have attention kernels of their own and run here.
std::vector<Isa> AttentionIsas();

}  // namespace loramux::test
