#include "session/step_input.h"

#include <algorithm>
#include <cmath>

#include "loramux/sampler.h"
#include "session/error.h"

namespace loramux {
namespace {

[[noreturn]] void Fail(const std::string& message) {
  throw NativeError(ErrorCode::kInvalidArgument, "step packet: " + message);
}

template <typename T>
[[noreturn]] void FailAt(const char* field, size_t index, T value, const std::string& expected) {
  Fail(std::string(field) + "[" + std::to_string(index) + "] = " + std::to_string(value) +
       ", expected " + expected);
}

void RequireCount(const char* field, int32_t value, int32_t low, int32_t high) {
  if (value >= low && value <= high) return;
  Fail(std::string(field) + " = " + std::to_string(value) + ", expected " + std::to_string(low) +
       " to " + std::to_string(high));
}

template <typename T>
void Copy(const char* field, const ArrayView<T>& from, int64_t count, std::vector<T>* to) {
  if (count > kMaxListLength) {
    Fail(std::string(field) + " needs " + std::to_string(count) + " entries, allowed are " +
         std::to_string(kMaxListLength));
  }
  if (static_cast<uint64_t>(count) > from.length) {
    Fail(std::string(field) + " has " + std::to_string(from.length) + " entries, the counts need " +
         std::to_string(count));
  }
  to->assign(from.data, from.data + count);
}

void RequireRange(const char* field, const std::vector<int32_t>& values, int32_t low,
                  int32_t high) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < low || values[i] > high) {
      FailAt(field, i, values[i], std::to_string(low) + " to " + std::to_string(high));
    }
  }
}

template <typename Predicate>
void RequireEach(const char* field, const std::vector<float>& values, const char* expected,
                 Predicate predicate) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (!predicate(values[i])) FailAt(field, i, values[i], expected);
  }
}

// starts[0] = 0, never falling, so that [starts[i], starts[i + 1]) are ranges.
void RequireStarts(const char* field, const std::vector<int32_t>& starts) {
  if (starts[0] != 0) FailAt(field, 0, starts[0], "0");
  for (size_t i = 1; i < starts.size(); ++i) {
    if (starts[i] < starts[i - 1]) {
      FailAt(field, i, starts[i], "at least " + std::to_string(starts[i - 1]));
    }
  }
}

}  // namespace

StepInput::StepInput(const SessionConfig& config)
    : max_tokens_(config.max_tokens_per_step),
      max_rows_(config.max_rows_per_step),
      vocab_(config.model.vocab_size),
      num_blocks_(config.num_blocks),
      block_size_(config.block_size),
      mask_slots_(config.masks.slots),
      dynamic_rope_(config.model.dynamic_rope),
      written_in_(sizeof(uint32_t) * static_cast<size_t>(config.num_blocks) *
                      static_cast<size_t>(config.block_size),
                  "the table of KV slots") {}

void StepInput::Assign(const StepPacketView& packet, const SlotTable& slots) {
  RequireCount("numTokens", packet.num_tokens, 1, max_tokens_);
  RequireCount("numSequences", packet.num_sequences, 1, packet.num_tokens);
  RequireCount("numSegments", packet.num_segments, 0, max_tokens_);
  RequireCount("numRows", packet.num_rows, 0, max_rows_);
  RequireCount("maxBlocksPerSequence", packet.max_blocks, 1, INT32_MAX);
  RequireCount("numBlockCopies", packet.num_block_copies, 0, num_blocks_);
  num_tokens = packet.num_tokens;
  num_sequences = packet.num_sequences;
  num_rows = packet.num_rows;
  num_block_copies = packet.num_block_copies;
  AssignTokens(packet);
  AssignSequences(packet);
  CheckKvSlots();
  AssignBlockCopies(packet);
  AssignSegments(packet, slots);
  AssignRows(packet);
  AssignLists(packet);
}

void StepInput::AssignTokens(const StepPacketView& packet) {
  Copy("inputIds", packet.input_ids, num_tokens, &input_ids);
  RequireRange("inputIds", input_ids, 0, vocab_ - 1);
  Copy("positions", packet.positions, num_tokens, &positions);
  RequireRange("positions", positions, 0, INT32_MAX);
  if (dynamic_rope_) {
    Copy("ropeLengths", packet.rope_lengths, num_tokens, &rope_lengths);
    RequireRange("ropeLengths", rope_lengths, 1, INT32_MAX);
  }
  Copy("slotMapping", packet.slot_mapping, num_tokens, &slot_mapping);
}

void StepInput::AssignSequences(const StepPacketView& packet) {
  Copy("queryStart", packet.query_start, int64_t{num_sequences} + 1, &query_start);
  RequireStarts("queryStart", query_start);
  if (query_start.back() != num_tokens) {
    FailAt("queryStart", query_start.size() - 1, query_start.back(),
           "numTokens = " + std::to_string(num_tokens));
  }
  Copy("contextLens", packet.context_lens, num_sequences, &context_lens);
  const int64_t longest =
      std::min(int64_t{packet.max_blocks} * block_size_, int64_t{kMaxContext});
  max_blocks = 0;
  for (int32_t s = 0; s < num_sequences; ++s) {
    const int32_t length = query_start[s + 1] - query_start[s];
    if (length == 0) FailAt("queryStart", s + 1, query_start[s + 1], "at least one token more");
    if (context_lens[s] < length || context_lens[s] > longest) {
      FailAt("contextLens", s, context_lens[s],
             std::to_string(length) + " (the step's tokens) to " + std::to_string(longest) +
                 " (maxBlocksPerSequence * blockSize)");
    }
    max_blocks = std::max(max_blocks, (context_lens[s] - 1) / block_size_ + 1);
  }
  const int64_t cells = int64_t{num_sequences} * packet.max_blocks;
  if (static_cast<uint64_t>(cells) > packet.block_tables.length) {
    Fail("blockTables has " + std::to_string(packet.block_tables.length) +
         " entries, the counts need " + std::to_string(cells));
  }
  if (int64_t{num_sequences} * max_blocks > kMaxListLength) {
    Fail("blockTables has more than " + std::to_string(kMaxListLength) + " used entries");
  }
  block_tables.resize(static_cast<size_t>(num_sequences) * max_blocks);
  for (int32_t s = 0; s < num_sequences; ++s) {
    const int32_t* from = packet.block_tables.data + int64_t{s} * packet.max_blocks;
    int32_t* to = block_tables.data() + int64_t{s} * max_blocks;
    const int32_t used = (context_lens[s] - 1) / block_size_ + 1;
    std::copy(from, from + used, to);
    std::fill(to + used, to + max_blocks, -1);
    for (int32_t i = 0; i < used; ++i) {
      if (to[i] >= 0 && to[i] < num_blocks_) continue;
      FailAt("blockTables", static_cast<size_t>(s) * packet.max_blocks + i, to[i],
             "a block 0 to " + std::to_string(num_blocks_ - 1) + " (sequence " +
                 std::to_string(s) + " has " + std::to_string(context_lens[s]) + " tokens)");
    }
  }
}

void StepInput::CheckKvSlots() {
  auto* written_in = static_cast<uint32_t*>(written_in_.data());
  if (++step_number_ == 0) {
    std::fill_n(written_in, int64_t{num_blocks_} * block_size_, 0u);
    step_number_ = 1;
  }
  for (int32_t s = 0; s < num_sequences; ++s) {
    const int32_t* table = block_tables.data() + int64_t{s} * max_blocks;
    const int32_t first = context_lens[s] - (query_start[s + 1] - query_start[s]);
    for (int32_t t = query_start[s]; t < query_start[s + 1]; ++t) {
      const int32_t place = first + t - query_start[s];
      const int32_t slot = table[place / block_size_] * block_size_ + place % block_size_;
      if (slot_mapping[t] != slot) {
        FailAt("slotMapping", t, slot_mapping[t],
               std::to_string(slot) + " (token " + std::to_string(place) + " of sequence " +
                   std::to_string(s) + " by its block table)");
      }
      uint32_t& stamp = written_in[slot];
      if (stamp == step_number_) {
        FailAt("slotMapping", t, slot, "a slot that no other token writes");
      }
      stamp = step_number_;
    }
  }
}

void StepInput::AssignBlockCopies(const StepPacketView& packet) {
  Copy("blockCopies", packet.block_copies, int64_t{num_block_copies} * 2, &block_copies);
  RequireRange("blockCopies", block_copies, 0, num_blocks_ - 1);
  for (int32_t i = 0; i < num_block_copies; ++i) {
    if (block_copies[2 * i] == block_copies[2 * i + 1]) {
      FailAt("blockCopies", 2 * i + 1, block_copies[2 * i + 1], "another block than its source");
    }
  }
}

void StepInput::AssignSegments(const StepPacketView& packet, const SlotTable& slots) {
  segments.clear();
  const int32_t count = packet.num_segments;
  if (count == 0) return;
  Copy("segmentStart", packet.segment_start, int64_t{count} + 1, &segment_start_);
  Copy("segmentAdapterStart", packet.segment_adapter_start, int64_t{count} + 1,
       &segment_adapter_start_);
  RequireStarts("segmentStart", segment_start_);
  // A token in no segment would be answered by the base without anybody noticing.
  if (segment_start_.back() != num_tokens) {
    FailAt("segmentStart", segment_start_.size() - 1, segment_start_.back(),
           "numTokens = " + std::to_string(num_tokens));
  }
  RequireStarts("segmentAdapterStart", segment_adapter_start_);
  const int32_t num_adapters = segment_adapter_start_.back();
  Copy("adapterSlot", packet.adapter_slot, num_adapters, &adapter_slot_);
  Copy("adapterScale", packet.adapter_scale, num_adapters, &adapter_scale_);
  RequireRange("adapterSlot", adapter_slot_, 0, slots.size() - 1);
  RequireEach("adapterScale", adapter_scale_, "a finite number",
              [](float v) { return std::isfinite(v); });
  for (int32_t g = 0; g < count; ++g) AssignSegment(g, slots);
}

void StepInput::AssignSegment(int32_t segment, const SlotTable& slots) {
  const int32_t begin = segment_start_[segment];
  const int32_t end = segment_start_[segment + 1];
  const int32_t first = segment_adapter_start_[segment];
  for (int32_t i = first; i < segment_adapter_start_[segment + 1]; ++i) {
    const int32_t slot = adapter_slot_[i];
    const AdapterSlab* adapter = slots.Ready(slot);
    if (adapter == nullptr) FailAt("adapterSlot", i, slot, "a slot that is loaded");
    // So a segment has no more adapters than there are slots.
    for (int32_t before = first; before < i; ++before) {
      if (adapter_slot_[before] != slot) continue;
      FailAt("adapterSlot", i, slot, "another slot than those before it in its segment");
    }
    if (begin < end) segments.push_back({begin, end, slot, adapter_scale_[i], adapter});
  }
}

void StepInput::AssignRows(const StepPacketView& packet) {
  const int64_t rows = num_rows;
  Copy("logitRows", packet.logit_rows, rows, &logit_rows);
  RequireRange("logitRows", logit_rows, 0, num_tokens - 1);
  for (size_t r = 1; r < logit_rows.size(); ++r) {
    if (logit_rows[r] < logit_rows[r - 1]) {
      FailAt("logitRows", r, logit_rows[r], "ascending order");
    }
  }
  Copy("sampling.targetIds", packet.target_ids, rows, &target_ids);
  RequireRange("sampling.targetIds", target_ids, -1, vocab_ - 1);
  Copy("sampling.topK", packet.top_k, rows, &top_k);
  RequireRange("sampling.topK", top_k, 0, INT32_MAX);
  Copy("sampling.sampleIndex", packet.sample_index, rows, &sample_index);
  RequireRange("sampling.sampleIndex", sample_index, 0, INT32_MAX);
  Copy("sampling.numTopLogprobs", packet.num_top_logprobs, rows, &num_top_logprobs);
  RequireRange("sampling.numTopLogprobs", num_top_logprobs, -1, kMaxTopLogprobs);
  Copy("sampling.seed", packet.seed, rows * 2, &seed);
  const auto finite = [](float v) { return std::isfinite(v); };
  Copy("sampling.temperature", packet.temperature, rows, &temperature);
  RequireEach("sampling.temperature", temperature, "a finite number >= 0",
              [](float v) { return std::isfinite(v) && v >= 0.0f; });
  Copy("sampling.topP", packet.top_p, rows, &top_p);
  RequireEach("sampling.topP", top_p, "above 0, at most 1",
              [](float v) { return v > 0.0f && v <= 1.0f; });
  Copy("sampling.minP", packet.min_p, rows, &min_p);
  RequireEach("sampling.minP", min_p, "0 to 1", [](float v) { return v >= 0.0f && v <= 1.0f; });
  Copy("sampling.repetitionPenalty", packet.repetition_penalty, rows, &repetition_penalty);
  RequireEach("sampling.repetitionPenalty", repetition_penalty, "a finite number above 0",
              [](float v) { return std::isfinite(v) && v > 0.0f; });
  Copy("sampling.presencePenalty", packet.presence_penalty, rows, &presence_penalty);
  RequireEach("sampling.presencePenalty", presence_penalty, "a finite number", finite);
  Copy("sampling.frequencyPenalty", packet.frequency_penalty, rows, &frequency_penalty);
  RequireEach("sampling.frequencyPenalty", frequency_penalty, "a finite number", finite);
  Copy("sampling.maskSlots", packet.mask_slots, rows, &mask_slots);
  RequireRange("sampling.maskSlots", mask_slots, -1, mask_slots_ - 1);
  Copy("sampling.maskStamps", packet.mask_stamps, rows, &mask_stamps);
  for (size_t r = 0; r < mask_slots.size(); ++r) {
    if (mask_slots[r] >= 0 && mask_stamps[r] < 1) {
      FailAt("sampling.maskStamps", r, mask_stamps[r], "1 or more");
    }
  }
}

void StepInput::AssignLists(const StepPacketView& packet) {
  if (num_rows == 0) return;
  const int64_t starts = int64_t{num_rows} + 1;
  Copy("sampling.historyStart", packet.history_start, starts, &history_start);
  RequireStarts("sampling.historyStart", history_start);
  Copy("sampling.history", packet.history, history_start.back(), &history);
  RequireRange("sampling.history", history, 0, vocab_ - 1);
  Copy("sampling.historyPromptLength", packet.history_prompt_length, num_rows,
       &history_prompt_length);
  for (int32_t r = 0; r < num_rows; ++r) {
    const int32_t length = history_start[r + 1] - history_start[r];
    if (length == 0) {
      // The caller need not fill what describes an empty history.
      history_prompt_length[r] = 0;
    } else if (history_prompt_length[r] < 0 || history_prompt_length[r] > length) {
      FailAt("sampling.historyPromptLength", r, history_prompt_length[r],
             "0 to " + std::to_string(length));
    }
  }
  Copy("sampling.biasStart", packet.bias_start, starts, &bias_start);
  RequireStarts("sampling.biasStart", bias_start);
  Copy("sampling.biasIds", packet.bias_ids, bias_start.back(), &bias_ids);
  RequireRange("sampling.biasIds", bias_ids, 0, vocab_ - 1);
  Copy("sampling.biasValues", packet.bias_values, bias_start.back(), &bias_values);
  // Minus infinity forbids a token.
  RequireEach("sampling.biasValues", bias_values, "a number below infinity",
              [](float v) { return v < INFINITY; });
}

}  // namespace loramux
