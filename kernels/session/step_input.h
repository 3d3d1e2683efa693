// One step's data. A StepPacketView borrows the caller's arrays; StepInput copies them into buffers
// that are reused from step to step and checks every field, so that nothing behind it can be driven
// out of bounds by a bad packet. T tokens, S sequences, G segments, R logit rows; shapes and
// meanings as in src/native/addon-types.ts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "session/config.h"
#include "session/memory.h"
#include "session/slot_table.h"

namespace loramux {

template <typename T>
struct ArrayView {
  const T* data = nullptr;
  size_t length = 0;
};

struct StepPacketView {
  int32_t num_tokens = 0;
  int32_t num_sequences = 0;
  int32_t num_segments = 0;
  int32_t num_rows = 0;
  int32_t max_blocks = 0;
  int32_t num_block_copies = 0;
  ArrayView<int32_t> input_ids, positions, rope_lengths;
  ArrayView<int32_t> query_start, context_lens, block_tables, slot_mapping, block_copies;
  ArrayView<int32_t> segment_start, segment_adapter_start, adapter_slot;
  ArrayView<float> adapter_scale;
  ArrayView<int32_t> logit_rows;
  // Sampling, per row.
  ArrayView<int32_t> target_ids, top_k, sample_index, num_top_logprobs;
  ArrayView<float> temperature, top_p, min_p;
  ArrayView<float> repetition_penalty, presence_penalty, frequency_penalty;
  ArrayView<uint32_t> seed;
  ArrayView<int32_t> history_start, history, history_prompt_length;
  ArrayView<int32_t> bias_start, bias_ids;
  ArrayView<float> bias_values;
  ArrayView<int32_t> mask_slots, mask_stamps;
};

// Tokens [begin, end) under one adapter; empty runs and runs of the base are left out. A run of
// several adapters is that many of these, one after another.
struct StepSegment {
  int32_t begin = 0;
  int32_t end = 0;
  int32_t slot = 0;
  float scale = 1.0f;
  const AdapterSlab* adapter = nullptr;
};

class StepInput {
 public:
  explicit StepInput(const SessionConfig& config);

  // Copies and checks. Throws kInvalidArgument naming the field, the index and the value; the
  // previous content is lost then.
  void Assign(const StepPacketView& packet, const SlotTable& slots);

  int32_t num_tokens = 0;
  int32_t num_sequences = 0;
  int32_t num_rows = 0;
  int32_t max_blocks = 0;  // columns of block_tables here: only those that some sequence uses
  int32_t num_block_copies = 0;
  std::vector<int32_t> input_ids, positions, rope_lengths;
  std::vector<int32_t> query_start, context_lens, block_tables, slot_mapping, block_copies;
  std::vector<StepSegment> segments;
  std::vector<int32_t> logit_rows;
  std::vector<int32_t> target_ids, top_k, sample_index, num_top_logprobs;
  std::vector<float> temperature, top_p, min_p;
  std::vector<float> repetition_penalty, presence_penalty, frequency_penalty;
  std::vector<uint32_t> seed;
  std::vector<int32_t> history_start, history, history_prompt_length;
  std::vector<int32_t> bias_start, bias_ids;
  std::vector<float> bias_values;
  std::vector<int32_t> mask_slots, mask_stamps;

 private:
  void AssignTokens(const StepPacketView& packet);
  void AssignSequences(const StepPacketView& packet);
  void CheckKvSlots();
  void AssignBlockCopies(const StepPacketView& packet);
  void AssignSegments(const StepPacketView& packet, const SlotTable& slots);
  void AssignSegment(int32_t segment, const SlotTable& slots);
  void AssignRows(const StepPacketView& packet);
  void AssignLists(const StepPacketView& packet);

  // Plain limits of the session.
  int32_t max_tokens_, max_rows_, vocab_, num_blocks_, block_size_, mask_slots_;
  bool dynamic_rope_;
  std::vector<int32_t> segment_start_, segment_adapter_start_, adapter_slot_;
  std::vector<float> adapter_scale_;
  // KV slot -> number of the step that last wrote it; finds a slot that two tokens write. Mapped,
  // because a large cache has millions of slots and most are never looked at.
  MappedBuffer written_in_;
  uint32_t step_number_ = 0;
};

}  // namespace loramux
