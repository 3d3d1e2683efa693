#include "loramux/lora_weights.h"

#include "cpu/kernel_table.h"

namespace loramux {
namespace {

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

const char* LoraDtypeName(LoraDtype dtype) {
  return dtype == LoraDtype::kBf16 ? "bfloat16" : "float32";
}

int64_t LoraBytesA(LoraDtype dtype, int64_t rank, int64_t in) {
  return dtype == LoraDtype::kBf16 ? 2 * rank * RoundUp(in, kLoraInputMultiple) : 4 * rank * in;
}

int64_t LoraBytesB(LoraDtype dtype, int64_t rank, int64_t out) {
  return dtype == LoraDtype::kBf16 ? 2 * RoundUp(rank, 2) * RoundUp(out, kLoraPanel)
                                   : 4 * rank * out;
}

bool PackLoraA(const void* from, WeightDtype from_dtype, int64_t rank, int64_t in, LoraDtype dtype,
               void* to, Isa isa) {
  const KernelTable& kernels = KernelsFor(isa);
  if (dtype == LoraDtype::kBf16) {
    return kernels.lora_packers.pack_a(from, from_dtype, rank, in, to);
  }
  const auto count = static_cast<size_t>(rank * in);
  kernels.convert(from, from_dtype, count, static_cast<float*>(to), 1.0f);
  return kernels.all_finite(static_cast<const float*>(to), count);
}

bool PackLoraB(const void* from, WeightDtype from_dtype, int64_t rank, int64_t out, float scale,
               LoraDtype dtype, void* to, Isa isa) {
  const KernelTable& kernels = KernelsFor(isa);
  if (dtype == LoraDtype::kBf16) {
    return kernels.lora_packers.pack_b(from, from_dtype, rank, out, scale, to);
  }
  kernels.convert_transposed(from, from_dtype, out, rank, static_cast<float*>(to), scale);
  return kernels.all_finite(static_cast<const float*>(to), static_cast<size_t>(rank * out));
}

}  // namespace loramux
