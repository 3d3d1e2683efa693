// What an instruction set supplies for paged attention; cpu/attention/paged_attention.cc drives it.
#pragma once

#include "cpu/attention/attention_plan.h"

namespace loramux {

struct AttentionTable {
  // Reads sizes and the cache's element type.
  AttentionNeeds (*needs)(const PagedAttentionArgs& args);
  // Keys and values of tokens [first, last) into the cache, their normalised, rotated and scaled
  // queries into the workspace.
  void (*write)(const AttentionCall& call, int64_t first, int64_t last, char* scratch);
  // Before the first and after the last unit of a worker; null: nothing to do.
  void (*begin)();
  void (*end)();
  void (*attend)(const AttentionCall& call, const AttendUnit& unit, char* scratch);
  // Merges the chunks of a unit that was spread.
  void (*merge)(const AttentionCall& call, const AttendUnit& unit, char* scratch);
};

namespace isa_scalar {
extern const AttentionTable kAttention;
}
namespace isa_avx2 {
extern const AttentionTable kAttention;
}
namespace isa_avx512 {
extern const AttentionTable kAttention;
}
namespace isa_neon {
extern const AttentionTable kAttention;
}

namespace isa_amx {
extern const AttentionTable kAttention;
}

}  // namespace loramux
