// Types shared by all kernels. Kernels take pointers, sizes and a Parallel; ONNX Runtime and N-API
// types live only in kernels/ops, kernels/session and kernels/addon.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace loramux {

// Instruction sets a kernel can be dispatched to: the portable one, then those of x86-64 and those
// of arm64, weakest first. A processor need not have all that come before its best one
// (SupportedIsas). Kernels exist for some of them only: a kernel without
// one of its own runs the next weaker one, see cpu/dispatch.cc.
//   kAvx2         AVX2, FMA, F16C
//   kAvxVnni      kAvx2 and AVX-VNNI
//   kAvx512       AVX-512 F, BW, VL, DQ
//   kAvx512Vnni   kAvx512 and AVX512-VNNI
//   kAvx512Bf16   kAvx512Vnni and AVX512-BF16
//   kAmx          kAvx512Bf16 and AMX tiles with int8 and bf16
//   kNeon         Advanced SIMD, as every arm64 processor has it
//   kNeonDotprod  kNeon and dot products of bytes (FEAT_DotProd)
enum class Isa : int32_t {
  kScalar = 0,
  kAvx2 = 1,
  kAvxVnni = 2,
  kAvx512 = 3,
  kAvx512Vnni = 4,
  kAvx512Bf16 = 5,
  kAmx = 6,
  kNeon = 7,
  kNeonDotprod = 8,
};
inline constexpr Isa kAllIsas[] = {Isa::kScalar,     Isa::kAvx2,       Isa::kAvxVnni,
                                   Isa::kAvx512,     Isa::kAvx512Vnni, Isa::kAvx512Bf16,
                                   Isa::kAmx,        Isa::kNeon,       Isa::kNeonDotprod};

// Element type of the key/value cache. kI8: signed levels of -127 to 127 and a float32 scale per
// token and kv head, see KvHeadBytes.
enum class KvDtype : int32_t { kF32 = 0, kBf16 = 1, kI8 = 2 };
const char* KvDtypeName(KvDtype dtype);

// Best instruction set of this processor (checks CPUID and that the OS saves the registers; arm64:
// what the OS reports). Asks each time (CPUID traps in virtual machines): keep the answer.
Isa DetectIsa();
const char* IsaName(Isa isa);

// A borrowed parallel-for: run(self, n, fn, arg) calls fn(arg, i) once for each i in [0, n), on any
// number of threads, and returns when all are done. Never throws; fn must not throw.
struct Parallel {
  void* self = nullptr;
  void (*run)(void* self, size_t n, void (*fn)(void* arg, size_t i), void* arg) = nullptr;
  int32_t threads = 1;

  // Calls f(i) for each i in [0, n).
  template <typename F>
  void For(size_t n, F&& f) const {
    if (n == 0) return;
    if (n == 1 || run == nullptr || threads <= 1) {
      for (size_t i = 0; i < n; ++i) f(i);
      return;
    }
    using Fn = std::remove_reference_t<F>;
    run(
        self, n, [](void* arg, size_t i) { (*static_cast<Fn*>(arg))(i); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }
};

}  // namespace loramux
