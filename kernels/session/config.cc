#include "session/config.h"

#include <cmath>

#include "loramux/cpu_features.h"
#include "session/error.h"

namespace loramux {
namespace {

void RequireRange(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  throw NativeError(ErrorCode::kInvalidArgument,
                    std::string(field) + " must be " + std::to_string(low) + " to " +
                        std::to_string(high) + ", got " + std::to_string(value));
}

void Require(bool ok, const std::string& message) {
  if (!ok) throw NativeError(ErrorCode::kInvalidArgument, message);
}

void ValidateRope(const ModelConfig& model) {
  Require(model.inv_freq.size() * 2 <= static_cast<size_t>(model.head_size),
          "model.rope.invFreq has more entries than half of headSize");
  for (float f : model.inv_freq) {
    Require(std::isfinite(f) && f >= 0.0f, "model.rope.invFreq has a negative or non-finite entry");
  }
  Require(std::isfinite(model.attention_scaling),
          "model.rope.attentionScaling must be a finite number");
  if (!model.dynamic_rope) return;
  Require(std::isfinite(model.dynamic_base) && model.dynamic_base > 0.0,
          "model.rope.dynamic.base must be a positive number");
  Require(std::isfinite(model.dynamic_factor) && model.dynamic_factor > 0.0,
          "model.rope.dynamic.factor must be a positive number");
  RequireRange("model.rope.dynamic.maxPositions", model.dynamic_max_positions, 1, INT32_MAX);
}

}  // namespace

void ValidateConfig(const SessionConfig& config) {
  const ModelConfig& model = config.model;
  RequireRange("model.numLayers", model.num_layers, 1, kMaxLayers);
  RequireRange("model.numHeads", model.num_heads, 1, kMaxHeads);
  RequireRange("model.numKvHeads", model.num_kv_heads, 1, kMaxHeads);
  RequireRange("model.headSize", model.head_size, 2, kMaxHeadSize);
  RequireRange("model.hiddenSize", model.hidden_size, 1, kMaxFeatures);
  RequireRange("model.vocabSize", model.vocab_size, 1, kMaxVocab);
  Require(model.num_heads % model.num_kv_heads == 0,
          "model.numKvHeads must divide model.numHeads");
  Require(model.head_size % 2 == 0, "model.headSize must be even");
  for (int32_t size : model.module_shapes) {
    RequireRange("model.moduleShapes", size, 1, kMaxFeatures);
  }
  Require(!model.model_bytes.empty(), "model.modelBytes is empty");
  Require(!model.external_data_dir.empty() && model.external_data_dir[0] == '/',
          "model.externalDataDir must be an absolute path");
  ValidateRope(model);

  RequireRange("intraOpThreads", config.intra_op_threads, 1, kMaxThreads);
  RequireRange("numBlocks", config.num_blocks, 1, kMaxBlocks);
  RequireRange("blockSize", config.block_size, 1, kMaxBlockSize);
  RequireRange("numBlocks * blockSize", int64_t{config.num_blocks} * config.block_size, 1,
               INT32_MAX);
  RequireRange("maxSlots", config.max_slots, 0, kMaxSlots);
  RequireRange("maxTokensPerStep", config.max_tokens_per_step, 1, kMaxTokensPerStep);
  RequireRange("maxLogitRowsPerStep", config.max_rows_per_step, 1, kMaxTokensPerStep);
  if (config.masks.words != nullptr) {
    const int32_t words = kMaskHeaderWords + (model.vocab_size + 31) / 32;
    RequireRange("tokenMasks.stride", config.masks.stride, words, kMaxVocab);
    RequireRange("tokenMasks.waitMs", config.masks.wait_ms, 0, kMaxMaskWaitMs);
  }
  Require(IsSupported(config.isa),
          std::string("isa '") + IsaName(config.isa) + "' is not available on this processor");
}

}  // namespace loramux
