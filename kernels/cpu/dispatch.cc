// Entry points of the kernel API: choose the instruction set's table, and what needs none.
#include <cstring>
#include <initializer_list>

#include "cpu/attention_layout.h"
#include "cpu/kernel_table.h"

namespace loramux {

const KernelTable& KernelsFor(Isa isa) {
#if defined(LORAMUX_HAVE_X86_ISAS)
  if (isa >= Isa::kAvx512) return isa_avx512::kTable;
  if (isa >= Isa::kAvx2) return isa_avx2::kTable;
#else
  (void)isa;
#endif
  return isa_scalar::kTable;
}

int64_t PagedAttentionWorkspace(const PagedAttentionArgs& args, int32_t threads) {
  return AttentionLayout(args).TotalFloats(threads > 1 ? threads : 1);
}

void PagedAttention(const PagedAttentionArgs& args, const Parallel& parallel, Isa isa) {
  KernelsFor(isa).paged_attention(args, parallel);
}

void CopyKvBlocks(void* k_cache, void* v_cache, KvDtype dtype, int32_t block_size,
                  int32_t num_kv_heads, int32_t head_size, const int32_t* src_dst_pairs,
                  int32_t num_pairs) {
  const size_t element = dtype == KvDtype::kBf16 ? 2 : 4;
  const size_t bytes = static_cast<size_t>(block_size) * static_cast<size_t>(num_kv_heads) *
                       static_cast<size_t>(head_size) * element;
  for (int32_t i = 0; i < num_pairs; ++i) {
    const size_t src = static_cast<size_t>(src_dst_pairs[2 * i]) * bytes;
    const size_t dst = static_cast<size_t>(src_dst_pairs[2 * i + 1]) * bytes;
    if (src == dst) continue;
    for (void* cache : {k_cache, v_cache}) {
      std::memcpy(static_cast<char*>(cache) + dst, static_cast<char*>(cache) + src, bytes);
    }
  }
}

void ConvertToF32(const void* src, WeightDtype dtype, size_t count, float* dst, float scale,
                  Isa isa) {
  KernelsFor(isa).convert(src, dtype, count, dst, scale);
}

void ConvertTransposedToF32(const void* src, WeightDtype dtype, int64_t rows, int64_t cols,
                            float* dst, float scale, Isa isa) {
  KernelsFor(isa).convert_transposed(src, dtype, rows, cols, dst, scale);
}

bool AllFinite(const float* values, size_t count, Isa isa) {
  return KernelsFor(isa).all_finite(values, count);
}

}  // namespace loramux
