// Adapter slots: numbered places that a step's segments name. A slot goes empty -> loading -> ready
// -> empty. It is written only while no step can read it: a step takes pointers from ready slots
// when it is submitted, and a slot is freed only when no step in flight named it.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "session/adapter_slab.h"

namespace loramux {

class SlotTable {
 public:
  explicit SlotTable(int32_t max_slots) : slots_(static_cast<size_t>(max_slots)) {}

  int32_t size() const { return static_cast<int32_t>(slots_.size()); }

  // Owner thread. empty -> loading. Throws kInvalidArgument (no such slot), kSlotBusy (not empty).
  void BeginLoad(int32_t slot);
  // Load thread. loading -> ready.
  void FinishLoad(int32_t slot, std::unique_ptr<AdapterSlab> slab);
  // Load thread, or the owner when no load thread was started. loading -> empty.
  void AbandonLoad(int32_t slot);
  // Owner thread. ready -> empty; the caller has made sure that no step reads it and frees the
  // memory. Throws kInvalidArgument (no such slot, empty), kSlotBusy (loading).
  std::unique_ptr<AdapterSlab> Free(int32_t slot);
  // Owner thread. The adapter of a ready slot, else null.
  const AdapterSlab* Ready(int32_t slot) const;
  // Drops everything; only when no step and no load is left.
  void Clear();

 private:
  enum class State { kEmpty, kLoading, kReady };
  struct Slot {
    std::atomic<State> state = State::kEmpty;
    std::unique_ptr<AdapterSlab> slab;
  };
  Slot& At(int32_t slot);

  std::vector<Slot> slots_;  // never resized: atomics do not move
};

}  // namespace loramux
