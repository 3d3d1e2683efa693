// Paged attention over packed ragged sequences: optional per-head RMS norm of q and k (Qwen3),
// rotary embedding (rotate-half layout of Hugging Face), write of k and v into the paged cache,
// causal grouped-query attention with online softmax (Milakov & Gimelshein 2018; vLLM
// PagedAttention).
#pragma once

#include "loramux/types.h"

namespace loramux {

struct PagedAttentionArgs {
  // Projections of this step, rows are packed tokens. Head h of row t begins at
  // q + t * q_stride + h * head_size (likewise k, v).
  const float* q = nullptr;                          // [tokens, num_heads, head_size]
  const float* k = nullptr;                          // [tokens, num_kv_heads, head_size]
  const float* v = nullptr;                          // [tokens, num_kv_heads, head_size]
  float* out = nullptr;                              // [tokens, num_heads, head_size], contiguous
  int64_t q_stride = 0, k_stride = 0, v_stride = 0;  // floats between rows

  int64_t num_tokens = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;  // divides num_heads
  int32_t head_size = 0;     // multiple of 2
  float softmax_scale = 0.0f;
  int32_t sliding_window = 0;  // 0: none; w: a query at p sees keys at positions (p - w, p]

  const float* q_norm = nullptr;  // [head_size] RMS norm weight before RoPE, or null
  const float* k_norm = nullptr;
  float norm_eps = 0.0f;

  // [tokens, 2, rotary_dim / 2]: cos row then sin row per token (see RopeTable).
  const float* cos_sin = nullptr;
  int32_t rotary_dim = 0;  // <= head_size; 0: no rotary embedding

  // Paged cache of this layer: [num_blocks, num_kv_heads] heads of KvHeadBytes(...) each; 64-byte
  // aligned.
  void* k_cache = nullptr;
  void* v_cache = nullptr;
  KvDtype kv_dtype = KvDtype::kF32;
  int32_t num_blocks = 0;
  int32_t block_size = 16;

  int32_t num_sequences = 0;
  const int32_t* query_start = nullptr;   // [S+1]
  const int32_t* context_lens = nullptr;  // [S]: tokens in the cache after this step
  const int32_t* block_tables = nullptr;  // [S, max_blocks]
  int32_t max_blocks = 0;
  const int32_t* slot_mapping = nullptr;  // [tokens]: block * block_size + offset

  float* workspace = nullptr;  // PagedAttentionWorkspace(...) floats
};

// One kv head of one block: [block_size, head_size] elements, so that a tile of a head's tokens is
// one run of memory. kI8: then [block_size] float32 scales, on a multiple of 4 bytes; a key or
// value is level * scale with scale = largest magnitude / 127, from the token alone. A head with a
// value that is not finite has the scale NaN, which reaches every row that sees it.
//
// kI8 with KvInQuads: groups of 16 tokens lie as operands of integer dot products of four. Keys:
// [head_size / 4][16 tokens][4 elements]; values: [4 quads of tokens][head_size][4 tokens].
constexpr int32_t kKvGroupTokens = 16;
bool KvInQuads(KvDtype dtype, int32_t block_size, int32_t head_size);
// Elements of a head before element i of token `inside` of the block.
enum class KvSide { kKey, kValue };
int64_t KvElementIndex(KvSide side, KvDtype dtype, int32_t block_size, int32_t head_size,
                       int64_t inside, int64_t i);
int64_t KvScaleOffset(KvDtype dtype, int32_t block_size, int32_t head_size);  // bytes
int64_t KvHeadBytes(KvDtype dtype, int32_t block_size, int32_t head_size);
// One block: all its kv heads, keys or values.
int64_t KvBlockBytes(KvDtype dtype, int32_t block_size, int32_t num_kv_heads, int32_t head_size);

// Keys are attended in chunks of so many absolute positions, each with a softmax of its own; chunks
// are merged in ascending order. One sequence's chunks can so be spread over threads.
inline constexpr int32_t kChunkKeys = 1024;
// Chunks are spread over threads only while what must be kept of them fits this many floats.
inline constexpr int64_t kMaxPartialFloats = int64_t{1} << 24;

// Floats of workspace for a call: rotated queries, per-thread tiles, partial results of chunks.
// `threads` must be the Parallel's. Reads the counts and sizes of args, query_start and
// context_lens. Contents need not be initialised.
int64_t PagedAttentionWorkspace(const PagedAttentionArgs& args, int32_t threads, Isa isa);

// A row's result depends only on its own sequence and the ISA: never on the batch around it, on how
// the prompt was cut into chunks, or on the number of threads (bitwise; with a bf16 or int8 cache
// the current chunk's keys and values are read back rounded, so chunking does not show).
//
// All keys and values are written first, then queries attend in tiles of keys at absolute
// positions, so a row adds up in the same order however it is scheduled. Garbage or NaN in keys a
// row may not see does not reach it.
//
// Rounding. Float32 caches: none beyond float32. bf16 caches on kAmx with head sizes up to
// kMaxTileHeadSize: queries and weights of the values are rounded to bf16. int8 caches there: both
// have 16 bits, a query's relative to its largest element, a row's weights times the values' scales
// relative to the largest among 128 keys; their products are exact integers. Elsewhere: none but
// the cache's own.
//
// Preconditions, checked by the caller: every slot in [0, num_blocks * block_size), every block
// that a visible position needs in [0, num_blocks) (blocks left of the sliding window are not read
// and may be -1), and no slot written by one sequence is read by another in the same call.
void PagedAttention(const PagedAttentionArgs& args, const Parallel& parallel, Isa isa);

// Copies whole blocks inside one layer's cache (both k and v): dst block becomes src block.
void CopyKvBlocks(void* k_cache, void* v_cache, KvDtype dtype, int32_t block_size,
                  int32_t num_kv_heads, int32_t head_size, const int32_t* src_dst_pairs,
                  int32_t num_pairs);

// Head sizes above run without tiles on kAmx too.
inline constexpr int32_t kMaxTileHeadSize = 512;

namespace reference {
// Double accumulation, two-pass softmax. Same cache semantics (rounds to kv_dtype on write).
void PagedAttention(const PagedAttentionArgs& args);
}  // namespace reference

// Cos and sin of every token of a step, computed once and shared by all layers.
struct RopeConfig {
  const float* inv_freq = nullptr;  // [rotary_dim / 2]
  int32_t rotary_dim = 0;
  float attention_scaling = 1.0f;
  // Dynamic NTK (Hugging Face rope_type "dynamic"); max_positions 0 turns it off.
  double dynamic_base = 0.0;
  double dynamic_factor = 0.0;
  int32_t dynamic_max_positions = 0;
};

// out [tokens, 2, rotary_dim / 2]. Angles are float32 products (position * inv_freq) as in Hugging
// Face, so that results agree to rounding.
void RopeTable(const RopeConfig& config, const int32_t* positions, const int32_t* rope_lengths,
               int64_t num_tokens, float* out);

}  // namespace loramux
