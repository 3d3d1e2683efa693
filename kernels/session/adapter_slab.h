// One adapter in memory, as the SegmentedLora kernel wants it (loramux/lora_weights.h), in float32,
// bfloat16 or int8. Made on a load thread, from a file or from the file's bytes in memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loramux/convert.h"
#include "loramux/segmented_lora.h"
#include "session/config.h"
#include "session/memory.h"

namespace loramux {

struct AdapterPair {
  int32_t layer = 0;
  int32_t module = 0;
  int32_t rank = 0;
  float scale = 1.0f;
  WeightDtype dtype = WeightDtype::kF32;
  int64_t offset_a = 0;  // bytes from the start of the file
  int64_t offset_b = 0;
};

struct AdapterImage {
  std::string path;
  int64_t file_bytes = 0;
  // The whole file where the caller has it in memory, else null; borrowed until the load has ended.
  const uint8_t* bytes = nullptr;
  std::vector<AdapterPair> pairs;
};

// rank 0: the adapter does not change this module.
struct AdapterModule {
  int32_t rank = 0;
  LoraDtype dtype = LoraDtype::kF32;
  float scale = 1.0f;  // of the adapter, where it is not folded into B
  const void* a = nullptr;
  const void* b = nullptr;
};

class AdapterSlab {
 public:
  AdapterSlab(int32_t num_layers, MappedBuffer memory)
      : memory_(std::move(memory)), modules_(static_cast<size_t>(num_layers) * kNumModules) {}

  AdapterModule& Module(int32_t layer, int32_t module) {
    return modules_[static_cast<size_t>(layer) * kNumModules + module];
  }
  const AdapterModule& Module(int32_t layer, int32_t module) const {
    return modules_[static_cast<size_t>(layer) * kNumModules + module];
  }
  int64_t bytes() const { return static_cast<int64_t>(memory_.bytes()); }
  void* data() const { return memory_.data(); }

 private:
  MappedBuffer memory_;
  std::vector<AdapterModule> modules_;
};

// Checks an image against the model before any file is touched. Throws kInvalidArgument naming the
// pair; tensors outside the file are kAdapterLoad.
void ValidateImage(const AdapterImage& image, const ModelConfig& model);

// Reads a validated image, from its bytes where it has them. Throws kAdapterLoad (missing or short
// file, other size, values that are not finite in `dtype`), kOutOfMemory, or kSessionClosed when
// `stop` became true.
std::unique_ptr<AdapterSlab> ReadAdapter(const AdapterImage& image, const ModelConfig& model,
                                         LoraDtype dtype, Isa isa, const std::atomic<bool>& stop);

}  // namespace loramux
