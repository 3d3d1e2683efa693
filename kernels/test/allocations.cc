// Counts what the process allocates, for tests of code that must not.
#include <atomic>
#include <cstdlib>
#include <new>

#include "test/support.h"

namespace {

std::atomic<int64_t> g_allocations{0};

void* Allocate(size_t bytes, size_t alignment) {
  ++g_allocations;
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  if (void* p = std::aligned_alloc(alignment, rounded)) return p;
  std::abort();
}

}  // namespace

void* operator new(size_t bytes) { return Allocate(bytes, alignof(std::max_align_t)); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return Allocate(bytes, static_cast<size_t>(alignment));
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return operator new(bytes); }
void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }

namespace loramux::test {

int64_t Allocations() { return g_allocations; }

}  // namespace loramux::test
