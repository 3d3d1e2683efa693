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
  const std::lock_guard lock(mutex_);
  Slot& entry = At(slot);
  if (entry.state != State::kEmpty) {
    throw NativeError(ErrorCode::kSlotBusy,
                      "slot " + std::to_string(slot) +
                          (entry.state == State::kLoading ? " is loading" : " is in use"));
  }
  entry.state = State::kLoading;
}

void SlotTable::FinishLoad(int32_t slot, std::unique_ptr<AdapterSlab> slab) {
  const std::lock_guard lock(mutex_);
  Slot& entry = At(slot);
  entry.slab = std::move(slab);
  entry.state = State::kReady;
}

void SlotTable::AbandonLoad(int32_t slot) {
  const std::lock_guard lock(mutex_);
  At(slot).state = State::kEmpty;
}

std::unique_ptr<AdapterSlab> SlotTable::Free(int32_t slot) {
  const std::lock_guard lock(mutex_);
  Slot& entry = At(slot);
  if (entry.state == State::kLoading) {
    throw NativeError(ErrorCode::kSlotBusy, "slot " + std::to_string(slot) + " is loading");
  }
  if (entry.state == State::kEmpty) {
    throw NativeError(ErrorCode::kInvalidArgument, "slot " + std::to_string(slot) + " is empty");
  }
  entry.state = State::kEmpty;
  return std::move(entry.slab);
}

const AdapterSlab* SlotTable::Ready(int32_t slot) const {
  const std::lock_guard lock(mutex_);
  if (slot < 0 || slot >= size()) return nullptr;
  const Slot& entry = slots_[static_cast<size_t>(slot)];
  return entry.state == State::kReady ? entry.slab.get() : nullptr;
}

void SlotTable::Clear() {
  const std::lock_guard lock(mutex_);
  for (Slot& slot : slots_) slot = Slot{};
}

}  // namespace loramux
