#include "session/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "session/error.h"

namespace loramux {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
// MADV_POPULATE_WRITE of Linux 5.14; older headers lack the name, older kernels and some sandboxes
// refuse it.
constexpr int kPopulateWrite = 23;

}  // namespace

MappedBuffer::MappedBuffer(size_t bytes, const char* what) {
  if (bytes == 0) return;
  const bool huge = bytes >= kHugePage;
  const size_t mapped = huge ? bytes + kHugePage : bytes;
  void* base =
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped < bytes || base == MAP_FAILED) {
    throw NativeError(ErrorCode::kOutOfMemory, "cannot allocate " + std::to_string(bytes) +
                                                   " bytes for " + what);
  }
  base_ = base;
  mapped_ = mapped;
  bytes_ = bytes;
  auto address = reinterpret_cast<uintptr_t>(base);
  if (huge) {
    address = (address + kHugePage - 1) & ~(uintptr_t{kHugePage} - 1);
    // Fewer TLB misses where the kernel allows it; without it everything works the same.
    madvise(reinterpret_cast<void*>(address), bytes, MADV_HUGEPAGE);
  }
  data_ = reinterpret_cast<void*>(address);
}

void MappedBuffer::Populate(const char* what) {
  if (bytes_ == 0 || madvise(data_, bytes_, kPopulateWrite) == 0) return;
  if (errno == ENOMEM) {
    throw NativeError(ErrorCode::kOutOfMemory, "cannot back " + std::to_string(bytes_) +
                                                   " bytes of " + what + ": " + strerror(errno));
  }
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  volatile char* at = static_cast<char*>(data_);
  for (size_t i = 0; i < bytes_; i += page) at[i] = 0;
}

MappedBuffer& MappedBuffer::operator=(MappedBuffer&& other) noexcept {
  if (this != &other) {
    if (base_ != nullptr) munmap(base_, mapped_);
    base_ = std::exchange(other.base_, nullptr);
    mapped_ = std::exchange(other.mapped_, 0);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

MappedBuffer::~MappedBuffer() {
  if (base_ != nullptr) munmap(base_, mapped_);
}

float* Workspace::Reserve(int64_t floats) {
  return static_cast<float*>(ReserveBytes(floats * static_cast<int64_t>(sizeof(float))));
}

void* Workspace::ReserveBytes(int64_t bytes) {
  const size_t needed = static_cast<size_t>(bytes);
  if (needed > buffer_.bytes()) {
    // Half as much again, so that steps of slowly rising size do not each map anew.
    const size_t grown = needed + needed / 2;
    buffer_ = MappedBuffer();
    buffer_ = MappedBuffer(grown, what_);
  }
  return buffer_.data();
}

}  // namespace loramux
