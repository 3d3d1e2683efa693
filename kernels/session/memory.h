// Memory that the kernels work in: pages mapped from the system, zero at first, counted in bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace loramux {

// Anonymous pages, zeroed and backed only where touched. Throws NativeError(kOutOfMemory).
class MappedBuffer {
 public:
  MappedBuffer() = default;
  // `what` names the buffer in the error message. Size 0 maps nothing.
  MappedBuffer(size_t bytes, const char* what);
  MappedBuffer(MappedBuffer&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)),
        mapped_(std::exchange(other.mapped_, 0)),
        data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  MappedBuffer& operator=(MappedBuffer&& other) noexcept;
  MappedBuffer(const MappedBuffer&) = delete;
  MappedBuffer& operator=(const MappedBuffer&) = delete;
  ~MappedBuffer();

  // Backs every page now. Throws NativeError(kOutOfMemory) where the system says no; `what` names
  // the buffer in the message.
  void Populate(const char* what);

  // Aligned to a page at least, to 2 MiB for buffers of that size.
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  float* floats() const { return static_cast<float*>(data_); }

 private:
  void* base_ = nullptr;
  size_t mapped_ = 0;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Scratch that grows to the largest request and is then reused; contents are not kept when it
// grows.
class Workspace {
 public:
  explicit Workspace(const char* what) : what_(what) {}
  float* Reserve(int64_t floats);
  void* ReserveBytes(int64_t bytes);

 private:
  const char* what_;
  MappedBuffer buffer_;
};

}  // namespace loramux
