#include "loramux/lora_weights.h"

#include "cpu/kernel_table.h"

namespace loramux {
namespace {

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

int64_t Groups(int64_t features) { return RoundUp(features, kLoraGroup) / kLoraGroup; }

}  // namespace

const char* LoraDtypeName(LoraDtype dtype) {
  switch (dtype) {
    case LoraDtype::kF32:
      return "float32";
    case LoraDtype::kBf16:
      return "bfloat16";
    case LoraDtype::kI8:
      return "int8";
  }
  return "unknown";
}

int64_t LoraBytesA(LoraDtype dtype, int64_t rank, int64_t in) {
  switch (dtype) {
    case LoraDtype::kF32:
      return 4 * rank * in;
    case LoraDtype::kBf16:
      return 2 * rank * RoundUp(in, kLoraInputMultiple);
    case LoraDtype::kI8:
      return rank * (RoundUp(in, kLoraInputMultipleI8) + 4 * Groups(in));
  }
  return 0;
}

int64_t LoraBytesB(LoraDtype dtype, int64_t rank, int64_t out) {
  switch (dtype) {
    case LoraDtype::kF32:
      return 4 * rank * out;
    case LoraDtype::kBf16:
      return 2 * RoundUp(rank, 2) * RoundUp(out, kLoraPanel);
    case LoraDtype::kI8:
      return RoundUp(rank, kLoraRankMultipleI8) * (RoundUp(out, kLoraPanel) + 4 * Groups(out));
  }
  return 0;
}

bool PackLoraA(const void* from, WeightDtype from_dtype, int64_t rank, int64_t in, LoraDtype dtype,
               void* to, Isa isa) {
  const KernelTable& kernels = KernelsFor(isa);
  if (dtype != LoraDtype::kF32) {
    const auto& packers =
        dtype == LoraDtype::kBf16 ? kernels.lora_bf16_packers : kernels.lora_i8_packers;
    return packers.pack_a(from, from_dtype, rank, in, to);
  }
  const auto count = static_cast<size_t>(rank * in);
  kernels.convert(from, from_dtype, count, static_cast<float*>(to), 1.0f);
  return kernels.all_finite(static_cast<const float*>(to), count);
}

bool PackLoraB(const void* from, WeightDtype from_dtype, int64_t rank, int64_t out, float scale,
               LoraDtype dtype, void* to, Isa isa) {
  const KernelTable& kernels = KernelsFor(isa);
  if (dtype != LoraDtype::kF32) {
    const auto& packers =
        dtype == LoraDtype::kBf16 ? kernels.lora_bf16_packers : kernels.lora_i8_packers;
    return packers.pack_b(from, from_dtype, rank, out, scale, to);
  }
  kernels.convert_transposed(from, from_dtype, out, rank, static_cast<float*>(to), scale);
  return kernels.all_finite(static_cast<const float*>(to), static_cast<size_t>(rank * out));
}

}  // namespace loramux
