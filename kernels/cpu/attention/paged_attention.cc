// Entry points of paged attention: chooses the instruction set's kernels and drives their three
// phases. All keys and values are written first, then units attend, then rows whose keys were
// spread over several units are merged.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "cpu/attention/attention_table.h"

namespace loramux {
namespace {

constexpr int64_t kLineFloats = 16;
constexpr int64_t kTokensPerWrite = 8;
// Multiply-adds that pay for waking a worker.
constexpr int64_t kCostPerWorker = 64 * 1024;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

int64_t ElementBytes(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kF32:
      return 4;
    case KvDtype::kBf16:
      return 2;
    case KvDtype::kI8:
      return 1;
  }
  return 0;
}

const AttentionTable& TableFor(const PagedAttentionArgs& args, Isa isa) {
#if defined(LORAMUX_HAVE_X86_ISAS)
  if (isa >= Isa::kAmx && args.kv_dtype != KvDtype::kF32 && args.head_size <= kMaxTileHeadSize) {
    return isa_amx::kAttention;
  }
  if (isa >= Isa::kAvx512) return isa_avx512::kAttention;
  if (isa >= Isa::kAvx2) return isa_avx2::kAttention;
#elif defined(LORAMUX_HAVE_ARM64_ISAS)
  (void)args;
  if (isa >= Isa::kNeon) return isa_neon::kAttention;
#else
  (void)args;
  (void)isa;
#endif
  return isa_scalar::kAttention;
}

AttentionCall MakeCall(const PagedAttentionArgs& args, const AttentionTable& table) {
  AttentionCall call;
  call.args = &args;
  call.needs = table.needs(args);
  call.element_bytes = ElementBytes(args.kv_dtype);
  call.head_bytes = KvHeadBytes(args.kv_dtype, args.block_size, args.head_size);
  call.in_quads = KvInQuads(args.kv_dtype, args.block_size, args.head_size);
  call.block_bytes = call.head_bytes * args.num_kv_heads;
  call.scale_offset = KvScaleOffset(args.kv_dtype, args.block_size, args.head_size);
  call.stride = RoundUp(args.head_size, kLineFloats);
  call.slot_floats = RoundUp(call.StateRows() * (call.stride + 2), kLineFloats);
  // A worker keeps the state of the chunk at hand and of the chunks before.
  call.state_offset = RoundUp(call.needs.worker_bytes, 4 * kLineFloats);
  call.needs.worker_bytes = call.state_offset + 2 * 4 * call.slot_floats;
  return call;
}

int64_t QueryFloats(const AttentionCall& call) {
  const PagedAttentionArgs& args = *call.args;
  return RoundUp(args.num_tokens * args.num_heads * call.needs.query_bytes / 4, kLineFloats);
}

// Hands out units [0, units) to as many workers as are worth waking; body(worker, next).
template <typename Body>
void RunWorkers(const Parallel& parallel, int64_t units, int64_t cost, Body&& body) {
  if (units <= 0) return;
  std::atomic<int64_t> counter{0};
  const auto next = [&]() -> int64_t {
    const int64_t unit = counter.fetch_add(1, std::memory_order_relaxed);
    return unit < units ? unit : -1;
  };
  const int64_t workers = std::min<int64_t>(
      {std::max(1, parallel.threads), units, cost / kCostPerWorker + 1});
  parallel.For(static_cast<size_t>(workers),
               [&](size_t worker) { body(static_cast<int64_t>(worker), next); });
}

}  // namespace

const char* KvDtypeName(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kF32:
      return "f32";
    case KvDtype::kBf16:
      return "bf16";
    case KvDtype::kI8:
      return "int8";
  }
  return "unknown";
}

bool KvInQuads(KvDtype dtype, int32_t block_size, int32_t head_size) {
  return dtype == KvDtype::kI8 && block_size % kKvGroupTokens == 0 && head_size % 4 == 0;
}

int64_t KvElementIndex(KvSide side, KvDtype dtype, int32_t block_size, int32_t head_size,
                       int64_t inside, int64_t i) {
  if (!KvInQuads(dtype, block_size, head_size)) return inside * head_size + i;
  const int64_t token = inside % kKvGroupTokens;
  const int64_t group = (inside - token) * head_size;
  if (side == KvSide::kKey) return group + i / 4 * 4 * kKvGroupTokens + 4 * token + i % 4;
  return group + token / 4 * 4 * head_size + 4 * i + token % 4;
}

int64_t KvScaleOffset(KvDtype dtype, int32_t block_size, int32_t head_size) {
  return RoundUp(int64_t{block_size} * head_size * ElementBytes(dtype), 4);
}

int64_t KvHeadBytes(KvDtype dtype, int32_t block_size, int32_t head_size) {
  const int64_t scales = dtype == KvDtype::kI8 ? int64_t{4} * block_size : 0;
  return KvScaleOffset(dtype, block_size, head_size) + scales;
}

int64_t KvBlockBytes(KvDtype dtype, int32_t block_size, int32_t num_kv_heads, int32_t head_size) {
  return num_kv_heads * KvHeadBytes(dtype, block_size, head_size);
}

int64_t PagedAttentionWorkspace(const PagedAttentionArgs& args, int32_t threads, Isa isa) {
  threads = std::max(1, threads);
  const AttentionCall call = MakeCall(args, TableFor(args, isa));
  const AttentionPlan plan(call, threads);
  // One line more: the start is aligned.
  return kLineFloats + QueryFloats(call) + threads * call.needs.worker_bytes / 4 +
         plan.PartialFloats();
}

void PagedAttention(const PagedAttentionArgs& args, const Parallel& parallel, Isa isa) {
  const AttentionTable& table = TableFor(args, isa);
  const int32_t threads = std::max(1, parallel.threads);
  AttentionCall call = MakeCall(args, table);
  // Cache lines: what one worker writes is not on a line that another reads.
  float* base = reinterpret_cast<float*>(RoundUp(
      static_cast<int64_t>(reinterpret_cast<uintptr_t>(args.workspace)), 4 * kLineFloats));
  call.queries = reinterpret_cast<char*>(base);
  call.scratch = call.queries + 4 * QueryFloats(call);
  call.partials =
      reinterpret_cast<float*>(call.scratch + int64_t{threads} * call.needs.worker_bytes);
  const AttentionPlan plan(call, threads);

  const auto scratch_of = [&](int64_t worker) {
    return call.scratch + worker * call.needs.worker_bytes;
  };
  const int64_t row_floats =
      (int64_t{args.num_heads} + 2 * args.num_kv_heads) * args.head_size;
  RunWorkers(parallel, CeilDiv(args.num_tokens, kTokensPerWrite),
             4 * args.num_tokens * row_floats, [&](int64_t worker, const auto& next) {
               for (int64_t unit = next(); unit >= 0; unit = next()) {
                 const int64_t first = unit * kTokensPerWrite;
                 table.write(call, first, std::min(args.num_tokens, first + kTokensPerWrite),
                             scratch_of(worker));
               }
             });
  RunWorkers(parallel, plan.Units(), plan.Cost(), [&](int64_t worker, const auto& next) {
    AttendCursor cursor(plan, false);
    if (table.begin != nullptr) table.begin();
    for (int64_t unit = next(); unit >= 0; unit = next()) {
      table.attend(call, cursor.Seek(unit), scratch_of(worker));
    }
    if (table.end != nullptr) table.end();
  });
  RunWorkers(parallel, plan.MergeUnits(), plan.PartialFloats(),
             [&](int64_t worker, const auto& next) {
               AttendCursor cursor(plan, true);
               for (int64_t unit = next(); unit >= 0; unit = next()) {
                 table.merge(call, cursor.Seek(unit), scratch_of(worker));
               }
             });
}

void CopyKvBlocks(void* k_cache, void* v_cache, KvDtype dtype, int32_t block_size,
                  int32_t num_kv_heads, int32_t head_size, const int32_t* src_dst_pairs,
                  int32_t num_pairs) {
  const int64_t bytes = KvBlockBytes(dtype, block_size, num_kv_heads, head_size);
  for (int32_t i = 0; i < num_pairs; ++i) {
    const int64_t src = src_dst_pairs[2 * i] * bytes;
    const int64_t dst = src_dst_pairs[2 * i + 1] * bytes;
    if (src == dst) continue;
    for (void* cache : {k_cache, v_cache}) {
      std::memcpy(static_cast<char*>(cache) + dst, static_cast<char*>(cache) + src,
                  static_cast<size_t>(bytes));
    }
  }
}

}  // namespace loramux
