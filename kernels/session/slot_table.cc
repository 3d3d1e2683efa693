#include "session/slot_table.h"

#include <string>

#include "session/error.h"

namespace loramux {

SlotTable::Slot& SlotTable::At(int32_t slot) {
  if (slot < 0 || slot >= size()) {
    throw NativeError(ErrorCode::kInvalidArgument, "slot " + std::to_string(slot) +
                                                       " does not exist; the session has " +
                                                       std::to_string(size()));
  }
  return slots_[static_cast<size_t>(slot)];
}

void SlotTable::BeginLoad(int32_t slot) {
  Slot& entry = At(slot);
  const State state = entry.state.load(std::memory_order_acquire);
  if (state != State::kEmpty) {
    throw NativeError(ErrorCode::kSlotBusy,
                      "slot " + std::to_string(slot) +
                          (state == State::kLoading ? " is loading" : " is in use"));
  }
  entry.state.store(State::kLoading, std::memory_order_relaxed);
}

void SlotTable::FinishLoad(int32_t slot, std::unique_ptr<AdapterSlab> slab) {
  Slot& entry = At(slot);
  entry.slab = std::move(slab);
  entry.state.store(State::kReady, std::memory_order_release);
}

void SlotTable::AbandonLoad(int32_t slot) {
  At(slot).state.store(State::kEmpty, std::memory_order_release);
}

std::unique_ptr<AdapterSlab> SlotTable::Free(int32_t slot) {
  Slot& entry = At(slot);
  const State state = entry.state.load(std::memory_order_acquire);
  if (state == State::kLoading) {
    throw NativeError(ErrorCode::kSlotBusy, "slot " + std::to_string(slot) + " is loading");
  }
  if (state == State::kEmpty) {
    throw NativeError(ErrorCode::kInvalidArgument, "slot " + std::to_string(slot) + " is empty");
  }
  entry.state.store(State::kEmpty, std::memory_order_relaxed);
  return std::move(entry.slab);
}

const AdapterSlab* SlotTable::Ready(int32_t slot) const {
  if (slot < 0 || slot >= size()) return nullptr;
  const Slot& entry = slots_[static_cast<size_t>(slot)];
  return entry.state.load(std::memory_order_acquire) == State::kReady ? entry.slab.get() : nullptr;
}

void SlotTable::Clear() {
  for (Slot& slot : slots_) {
    slot.slab.reset();
    slot.state.store(State::kEmpty, std::memory_order_relaxed);
  }
}

}  // namespace loramux
