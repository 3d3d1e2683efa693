#include "cpu/attention/attention_plan.h"

#include <algorithm>

namespace loramux {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Units that each thread should get, so that the last ones do not leave threads waiting.
constexpr int64_t kUnitsPerThread = 4;
// A unit's cost is keys times rows plus this: a few rows wait for memory, not for arithmetic.
constexpr int64_t kRowsOfReading = 16;

}  // namespace

AttentionPlan::AttentionPlan(const AttentionCall& call, int32_t threads) : call_(call) {
  const PagedAttentionArgs& args = Args();
  int64_t total = 0;
  for (int32_t s = 0; s < args.num_sequences; ++s) {
    total += HeadCost(s) * Tiles(s) * args.num_kv_heads;
    cost_ += int64_t{Length(s)} * args.context_lens[s] * args.num_heads * args.head_size;
  }
  cost_per_unit_ = threads > 1 ? std::max<int64_t>(1, total / (kUnitsPerThread * threads))
                               : INT64_MAX;
  Count();
  if (partial_floats_ > kMaxPartialFloats) {
    cost_per_unit_ = INT64_MAX;
    Count();
  }
}

void AttentionPlan::Count() {
  units_ = merge_units_ = partial_floats_ = 0;
  for (int32_t s = 0; s < Args().num_sequences; ++s) {
    const int64_t parts = Parts(s);
    const int64_t tiles = HeadTiles(s);
    units_ += tiles * parts;
    if (parts == 1) continue;
    merge_units_ += tiles;
    partial_floats_ += tiles * Chunks(s) * call_.slot_floats;
  }
}

int32_t AttentionPlan::Length(int32_t sequence) const {
  return Args().query_start[sequence + 1] - Args().query_start[sequence];
}

int32_t AttentionPlan::Tokens(int32_t sequence) const {
  return std::max(1, std::min(Length(sequence), call_.needs.unit_rows / call_.Group()));
}

int64_t AttentionPlan::Tiles(int32_t sequence) const {
  return CeilDiv(Length(sequence), Tokens(sequence));
}

int32_t AttentionPlan::FirstChunk(int32_t, int32_t position) const {
  const int32_t window = Args().sliding_window;
  return window > 0 && position >= window ? (position - window + 1) / kChunkKeys : 0;
}

int32_t AttentionPlan::Chunks(int32_t sequence) const {
  const int32_t length = Length(sequence);
  if (length == 0) return 0;
  const int32_t end = Args().context_lens[sequence];
  return static_cast<int32_t>(CeilDiv(end, kChunkKeys)) - FirstChunk(sequence, end - length);
}

int64_t AttentionPlan::HeadCost(int32_t sequence) const {
  const int64_t tokens = Tokens(sequence);
  int64_t keys = Args().context_lens[sequence];
  if (Args().sliding_window > 0) keys = std::min(keys, Args().sliding_window + tokens);
  return keys * (tokens * call_.Group() + kRowsOfReading);
}

// As many heads as fit a unit's state, while a chunk of them all is not too much for one unit.
int32_t AttentionPlan::Heads(int32_t sequence) const {
  if (!call_.needs.several_heads || Length(sequence) == 0) return 1;
  int64_t heads = std::min<int64_t>(Args().num_kv_heads,
                                    call_.StateRows() / call_.HeadRows(Tokens(sequence)));
  const int64_t chunk_cost = std::max<int64_t>(1, HeadCost(sequence) / Chunks(sequence));
  heads = std::min(heads, cost_per_unit_ / chunk_cost);
  return static_cast<int32_t>(std::max<int64_t>(1, heads));
}

int64_t AttentionPlan::HeadTiles(int32_t sequence) const {
  return Tiles(sequence) * CeilDiv(Args().num_kv_heads, Heads(sequence));
}

int32_t AttentionPlan::Parts(int32_t sequence) const {
  const int32_t chunks = Chunks(sequence);
  const int64_t cost = HeadCost(sequence) * Heads(sequence);
  if (chunks < 2 || cost <= cost_per_unit_) return 1;
  return static_cast<int32_t>(std::min<int64_t>(chunks, CeilDiv(cost, cost_per_unit_)));
}

int64_t AttendCursor::UnitsOf(int32_t sequence) const {
  const int64_t tiles = plan_.HeadTiles(sequence);
  const int32_t parts = plan_.Parts(sequence);
  if (merge_) return parts > 1 ? tiles : 0;
  return tiles * parts;
}

AttendUnit AttendCursor::Seek(int64_t unit) {
  const PagedAttentionArgs& args = plan_.Args();
  int64_t units = UnitsOf(sequence_);
  while (unit >= first_unit_ + units) {
    if (plan_.Parts(sequence_) > 1) {
      partial_ +=
          plan_.HeadTiles(sequence_) * plan_.Chunks(sequence_) * plan_.call_.slot_floats;
    }
    first_unit_ += units;
    ++sequence_;
    units = UnitsOf(sequence_);
  }
  const int32_t parts = plan_.Parts(sequence_);
  const int32_t units_per_tile = merge_ ? 1 : parts;
  const int64_t local = unit - first_unit_;
  const int32_t part = static_cast<int32_t>(local % units_per_tile);
  const int64_t head_tile = local / units_per_tile;
  const int32_t heads = plan_.Heads(sequence_);
  const int64_t head_units = CeilDiv(args.num_kv_heads, heads);
  const int64_t tile = plan_.Tiles(sequence_) - 1 - head_tile / head_units;
  const int32_t length = plan_.Length(sequence_);
  const int32_t offset = static_cast<int32_t>(tile) * plan_.Tokens(sequence_);

  AttendUnit result;
  result.sequence = sequence_;
  result.kv_head = static_cast<int32_t>(head_tile % head_units) * heads;
  result.heads = std::min(heads, args.num_kv_heads - result.kv_head);
  result.first = args.query_start[sequence_] + offset;
  result.count = std::min(plan_.Tokens(sequence_), length - offset);
  const int32_t start = args.context_lens[sequence_] - length;
  result.position = start + offset;
  const int32_t first = plan_.FirstChunk(sequence_, result.position);
  const int32_t last =
      static_cast<int32_t>(CeilDiv(result.position + result.count, kChunkKeys));
  result.first_chunk = first + static_cast<int32_t>(int64_t{last - first} * part / units_per_tile);
  result.last_chunk =
      first + static_cast<int32_t>(int64_t{last - first} * (part + 1) / units_per_tile);
  if (parts > 1) {
    const int64_t slot = head_tile * plan_.Chunks(sequence_) + result.first_chunk -
                         plan_.FirstChunk(sequence_, start);
    result.partials = plan_.call_.partials + partial_ + slot * plan_.call_.slot_floats;
  }
  return result;
}

}  // namespace loramux
