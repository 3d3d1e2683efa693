#include "test/paged_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "loramux/cpu_features.h"

namespace loramux::test {

PagedCase::PagedCase(const AttentionShape& shape, const std::vector<int32_t>& lengths,
                     Random* random)
    : shape_(shape) {
  const size_t d = static_cast<size_t>(shape.head_size);
  const size_t q_size = static_cast<size_t>(shape.num_heads) * d;
  const size_t kv_size = static_cast<size_t>(shape.num_kv_heads) * d;
  for (int32_t length : lengths) {
    num_blocks_ += (length + shape.block_size - 1) / shape.block_size;
  }
  num_blocks_ += 3;  // some belong to nobody
  std::vector<int32_t> order(static_cast<size_t>(num_blocks_));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size() - 1; i > 0; --i) {
    std::swap(order[i], order[static_cast<size_t>(random->Int(0, static_cast<int32_t>(i)))]);
  }
  size_t next = 0;
  for (int32_t length : lengths) {
    SequenceData s;
    s.length = length;
    const size_t n = static_cast<size_t>(length);
    s.q = random->Normals(n * q_size, 1.0f);
    s.k = random->Normals(n * kv_size, 1.0f);
    s.v = random->Normals(n * kv_size, 1.0f);
    const int32_t blocks = (length + shape.block_size - 1) / shape.block_size;
    for (int32_t b = 0; b < blocks; ++b) s.blocks.push_back(order[next++]);
    sequences_.push_back(std::move(s));
  }
  if (shape.norm) {
    q_norm_ = random->Normals(d, 1.0f);
    k_norm_ = random->Normals(d, 1.0f);
  }
  for (int32_t i = 0; i < shape.rotary_dim / 2; ++i) {
    inv_freq_.push_back(1.0f / std::pow(10000.0f, static_cast<float>(2 * i) /
                                                      static_cast<float>(shape.rotary_dim)));
  }
  ClearCache();
}

int64_t PagedCase::BlockBytes() const {
  return KvBlockBytes(shape_.kv_dtype, shape_.block_size, shape_.num_kv_heads, shape_.head_size);
}

void PagedCase::ClearCache() {
  // 0xff everywhere is a NaN, in int8 caches of the scales.
  k_cache_.assign(static_cast<size_t>(num_blocks_ * BlockBytes()), 0xff);
  v_cache_ = k_cache_;
}

void PagedCase::PoisonBlock(int32_t block) {
  const size_t bytes = static_cast<size_t>(BlockBytes());
  std::memset(k_cache_.data() + static_cast<size_t>(block) * bytes, 0xff, bytes);
  std::memset(v_cache_.data() + static_cast<size_t>(block) * bytes, 0xff, bytes);
}

PreparedStep PagedCase::Prepare(const std::vector<Chunk>& chunks, int32_t threads, Isa isa) {
  const int64_t d = shape_.head_size;
  const int64_t q_size = shape_.num_heads * d;
  const int64_t kv_size = shape_.num_kv_heads * d;
  // Rows are laid out wider than needed: strides must be respected.
  constexpr size_t kQueryPadding = 3;
  constexpr size_t kKeyPadding = 5;
  PreparedStep step;
  std::vector<int32_t> positions;
  step.query_start = {0};
  int32_t max_blocks = 1;
  for (const Chunk& c : chunks) {
    max_blocks = std::max(max_blocks, static_cast<int32_t>(sequence(c.sequence).blocks.size()));
  }
  const auto append = [](std::vector<float>* to, const std::vector<float>& from, int64_t row,
                         int64_t size, size_t padding) {
    to->insert(to->end(), from.begin() + row * size, from.begin() + (row + 1) * size);
    to->resize(to->size() + padding, NAN);
  };
  for (const Chunk& c : chunks) {
    const SequenceData& s = sequence(c.sequence);
    for (int32_t p = c.begin; p < c.end; ++p) {
      append(&step.q, s.q, p, q_size, kQueryPadding);
      append(&step.k, s.k, p, kv_size, kKeyPadding);
      append(&step.v, s.v, p, kv_size, kKeyPadding);
      positions.push_back(p);
      const size_t block = static_cast<size_t>(p / shape_.block_size);
      step.slots.push_back(s.blocks[block] * shape_.block_size + p % shape_.block_size);
    }
    step.query_start.push_back(static_cast<int32_t>(positions.size()));
    step.context_lens.push_back(c.end);
    // Blocks that no visible position needs are -1.
    const int32_t low =
        shape_.sliding_window > 0 ? std::max(0, c.begin - shape_.sliding_window + 1) : 0;
    for (int32_t b = 0; b < max_blocks; ++b) {
      const bool used = (b + 1) * shape_.block_size > low && b * shape_.block_size < c.end;
      step.tables.push_back(used ? s.blocks[static_cast<size_t>(b)] : -1);
    }
  }
  const int64_t tokens = static_cast<int64_t>(positions.size());
  step.cos_sin.resize(static_cast<size_t>(tokens * shape_.rotary_dim));
  RopeConfig rope;
  rope.inv_freq = inv_freq_.data();
  rope.rotary_dim = shape_.rotary_dim;
  if (shape_.rotary_dim > 0) {
    RopeTable(rope, positions.data(), nullptr, tokens, step.cos_sin.data());
  }
  step.out.assign(static_cast<size_t>(tokens * q_size), NAN);
  PagedAttentionArgs& args = step.args;
  args.q = step.q.data();
  args.k = step.k.data();
  args.v = step.v.data();
  args.out = step.out.data();
  args.q_stride = q_size + static_cast<int64_t>(kQueryPadding);
  args.k_stride = args.v_stride = kv_size + static_cast<int64_t>(kKeyPadding);
  args.num_tokens = tokens;
  args.num_heads = shape_.num_heads;
  args.num_kv_heads = shape_.num_kv_heads;
  args.head_size = shape_.head_size;
  args.softmax_scale = 1.0f / std::sqrt(static_cast<float>(d));
  args.sliding_window = shape_.sliding_window;
  args.q_norm = shape_.norm ? q_norm_.data() : nullptr;
  args.k_norm = shape_.norm ? k_norm_.data() : nullptr;
  args.norm_eps = 1e-6f;
  args.cos_sin = step.cos_sin.data();
  args.rotary_dim = shape_.rotary_dim;
  args.k_cache = k_cache_.data();
  args.v_cache = v_cache_.data();
  args.kv_dtype = shape_.kv_dtype;
  args.num_blocks = num_blocks_;
  args.block_size = shape_.block_size;
  args.num_sequences = static_cast<int32_t>(chunks.size());
  args.query_start = step.query_start.data();
  args.context_lens = step.context_lens.data();
  args.block_tables = step.tables.data();
  args.max_blocks = max_blocks;
  args.slot_mapping = step.slots.data();
  step.workspace.assign(static_cast<size_t>(PagedAttentionWorkspace(args, threads, isa)), NAN);
  args.workspace = step.workspace.data();
  return step;
}

std::vector<float> PagedCase::Step(const std::vector<Chunk>& chunks, const Parallel& parallel,
                                   const Isa* isa) {
  PreparedStep step =
      Prepare(chunks, parallel.threads, isa == nullptr ? Isa::kScalar : *isa);
  if (isa == nullptr) {
    reference::PagedAttention(step.args);
  } else {
    PagedAttention(step.args, parallel, *isa);
  }
  return step.out;
}

std::vector<float> PagedCase::RunInChunks(int32_t sequence_index, const std::vector<int32_t>& cuts,
                                          Isa isa) {
  std::vector<float> all;
  int32_t begin = 0;
  std::vector<int32_t> ends = cuts;
  ends.push_back(sequence(sequence_index).length);
  for (int32_t end : ends) {
    const std::vector<float> out = Step({{sequence_index, begin, end}}, Parallel{}, &isa);
    all.insert(all.end(), out.begin(), out.end());
    begin = end;
  }
  return all;
}

std::vector<Isa> AttentionIsas() {
  std::vector<Isa> isas = SupportedIsas();
  std::erase_if(isas, [](Isa isa) {
    return isa == Isa::kAvxVnni || isa == Isa::kAvx512Vnni || isa == Isa::kAvx512Bf16 ||
           isa == Isa::kNeonDotprod;
  });
  return isas;
}

}  // namespace loramux::test
