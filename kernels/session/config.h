// What a session is made from, and the limits its values are checked against.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "loramux/lora_weights.h"
#include "loramux/types.h"

namespace loramux {

// Linear modules an adapter can change: q, k, v, o, gate, up, down, numbered as LORA_MODULES in
// addon-types.ts.
inline constexpr int32_t kNumModules = 7;

// Bounds on configuration values; far above any real model, low enough that no product of two of
// them overflows 64 bits.
inline constexpr int32_t kMaxLayers = 1024;
inline constexpr int32_t kMaxHeads = 4096;
inline constexpr int32_t kMaxHeadSize = 4096;
inline constexpr int32_t kMaxFeatures = 1 << 24;
inline constexpr int32_t kMaxVocab = 1 << 24;
inline constexpr int32_t kMaxBlocks = 1 << 24;
inline constexpr int32_t kMaxBlockSize = 1024;
inline constexpr int32_t kMaxSlots = 1 << 16;
inline constexpr int32_t kMaxThreads = 1024;
inline constexpr int32_t kMaxTokensPerStep = 1 << 20;
// Adapter files are read and converted by this many threads at once.
inline constexpr int32_t kLoadThreads = 2;
inline constexpr int32_t kMaxRank = kMaxLoraRank;
// Tokens of one sequence; positions and one tile of keys more must fit 32 bits.
inline constexpr int32_t kMaxContext = 1 << 30;
// Floats of a step's variable-length lists (history, bias, block table), each.
inline constexpr int64_t kMaxListLength = int64_t{1} << 27;

struct ModelConfig {
  std::vector<uint8_t> model_bytes;  // dropped once the model is loaded
  std::string external_data_dir;
  int32_t num_layers = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_size = 0;
  int32_t hidden_size = 0;
  int32_t vocab_size = 0;
  std::array<int32_t, 2 * kNumModules> module_shapes{};  // [in, out] per module
  std::vector<float> inv_freq;                           // [rotary_dim / 2]
  float attention_scaling = 1.0f;
  // The graph's linear layers are our operators over packed weights, so that ONNX Runtime has
  // nothing to share among threads: the step's own pool has all of them, ONNX Runtime one.
  bool packed_weights = false;
  bool dynamic_rope = false;
  double dynamic_base = 0.0;
  double dynamic_factor = 0.0;
  int32_t dynamic_max_positions = 0;

  int32_t InFeatures(int32_t module) const { return module_shapes[2 * module]; }
  int32_t OutFeatures(int32_t module) const { return module_shapes[2 * module + 1]; }
};

// Masks of the tokens that a constrained sequence may sample, in memory that other threads write:
// slots of stride words each. Word 0 of a slot is the stamp, a mask begins at kMaskHeaderWords.
// Stamp k + 1: the mask of output token k is there; kMaskNever: none will come.
inline constexpr int32_t kMaskHeaderWords = 16;
inline constexpr int32_t kMaskNever = -1;
// Longest that one step waits for masks, whatever the configuration says.
inline constexpr int32_t kMaxMaskWaitMs = 60'000;

struct MaskMemory {
  int32_t* words = nullptr;  // [slots, stride], borrowed; null: no masks
  int32_t slots = 0;
  int32_t stride = 0;
  int32_t wait_ms = 0;  // of one step
};

struct SessionConfig {
  std::string ort_library_path;
  ModelConfig model;
  int32_t intra_op_threads = 1;
  int32_t num_blocks = 0;
  int32_t block_size = 16;
  KvDtype kv_dtype = KvDtype::kF32;
  int32_t max_slots = 0;
  LoraDtype lora_dtype = LoraDtype::kF32;  // of adapters in slots
  int32_t max_tokens_per_step = 0;
  int32_t max_rows_per_step = 0;
  MaskMemory masks;
  Isa isa = Isa::kScalar;
};

// Throws NativeError(kInvalidArgument) naming the field at fault.
void ValidateConfig(const SessionConfig& config);

}  // namespace loramux
