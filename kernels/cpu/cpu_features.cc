#include "loramux/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace loramux {
namespace {

#if defined(__x86_64__)
struct CpuidRegs {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidRegs Cpuid(uint32_t leaf, uint32_t subleaf) {
  CpuidRegs r;
  // Leaves beyond the supported maximum answer zeros here (some processors repeat the last leaf).
  if (__get_cpuid_max(0, nullptr) < leaf) return r;
  __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
  return r;
}

// XCR0: register files that the operating system saves on a context switch.
uint64_t SavedState(const CpuidRegs& leaf1) {
  const bool osxsave = (leaf1.ecx >> 27) & 1;
  if (!osxsave) return 0;
  uint32_t lo = 0, hi = 0;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (static_cast<uint64_t>(hi) << 32) | lo;
}
#elif defined(__aarch64__)
// Programs cannot ask the processor itself. False where the operating system is not known.
bool HasDotProducts() {
#if defined(__linux__)
  constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & kDotProducts) != 0;
#elif defined(__APPLE__)
  int32_t present = 0;
  size_t bytes = sizeof(present);
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &present, &bytes, nullptr, 0) == 0 &&
         present != 0;
#else
  return false;
#endif
}
#endif

struct Feature {
  const char* name;
  bool present;
};

std::vector<Feature> QueryFeatures() {
#if defined(__x86_64__)
  const CpuidRegs l1 = Cpuid(1, 0);
  const CpuidRegs l7 = Cpuid(7, 0);
  const CpuidRegs l71 = l7.eax >= 1 ? Cpuid(7, 1) : CpuidRegs{};
  const uint64_t xcr0 = SavedState(l1);
  constexpr uint64_t kYmm = 0x6;       // SSE and AVX halves
  constexpr uint64_t kZmm = 0xe6;      // plus opmask and both ZMM parts
  constexpr uint64_t kTile = 0x60000;  // AMX configuration and data
  const bool ymm = (xcr0 & kYmm) == kYmm;
  const bool zmm = (xcr0 & kZmm) == kZmm;
  const bool tile = (xcr0 & kTile) == kTile;
  const auto bit = [](uint32_t reg, int i) { return ((reg >> i) & 1) != 0; };
  return {
      {"sse4.2", bit(l1.ecx, 20)},
      {"avx", ymm && bit(l1.ecx, 28)},
      {"avx2", ymm && bit(l7.ebx, 5)},
      {"fma", ymm && bit(l1.ecx, 12)},
      {"f16c", ymm && bit(l1.ecx, 29)},
      {"avx_vnni", ymm && bit(l71.eax, 4)},
      {"avx512f", zmm && bit(l7.ebx, 16)},
      {"avx512bw", zmm && bit(l7.ebx, 30)},
      {"avx512vl", zmm && bit(l7.ebx, 31)},
      {"avx512dq", zmm && bit(l7.ebx, 17)},
      {"avx512_vnni", zmm && bit(l7.ecx, 11)},
      {"avx512_bf16", zmm && bit(l71.eax, 5)},
      {"avx512_fp16", zmm && bit(l7.edx, 23)},
      {"amx_tile", tile && bit(l7.edx, 24)},
      {"amx_int8", tile && bit(l7.edx, 25)},
      {"amx_bf16", tile && bit(l7.edx, 22)},
  };
#elif defined(__aarch64__)
  return {{"neon", true}, {"dotprod", HasDotProducts()}};  // the first is mandatory in AArch64
#else
  return {};
#endif
}

[[maybe_unused]] bool Has(const std::vector<Feature>& features, const char* name) {
  for (const Feature& f : features) {
    if (std::string(name) == f.name) return f.present;
  }
  return false;
}

#if defined(LORAMUX_HAVE_X86_ISAS)
// Linux saves tiles only for processes that ask: the state is 8 KiB per thread. Granted once, it
// holds for every thread. Idempotent; false where the kernel refuses or does not know tiles.
bool TilesPermitted() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILE_DATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

}  // namespace

std::vector<std::string> CpuFeatures() {
  std::vector<std::string> names;
  for (const Feature& f : QueryFeatures()) {
    if (f.present) names.emplace_back(f.name);
  }
  return names;
}

std::vector<Isa> SupportedIsas() {
  std::vector<Isa> isas = {Isa::kScalar};
#if defined(LORAMUX_HAVE_X86_ISAS)
  const std::vector<Feature> f = QueryFeatures();
  if (!(Has(f, "avx2") && Has(f, "fma") && Has(f, "f16c"))) return isas;
  isas.push_back(Isa::kAvx2);
  if (Has(f, "avx_vnni")) isas.push_back(Isa::kAvxVnni);
  if (!(Has(f, "avx512f") && Has(f, "avx512bw") && Has(f, "avx512vl") && Has(f, "avx512dq"))) {
    return isas;
  }
  isas.push_back(Isa::kAvx512);
  if (!Has(f, "avx512_vnni")) return isas;
  isas.push_back(Isa::kAvx512Vnni);
  if (!Has(f, "avx512_bf16")) return isas;
  isas.push_back(Isa::kAvx512Bf16);
  const bool amx = Has(f, "amx_tile") && Has(f, "amx_int8") && Has(f, "amx_bf16");
  if (amx && TilesPermitted()) isas.push_back(Isa::kAmx);
#elif defined(LORAMUX_HAVE_ARM64_ISAS)
  const std::vector<Feature> f = QueryFeatures();
  if (Has(f, "neon")) isas.push_back(Isa::kNeon);
  if (Has(f, "dotprod")) isas.push_back(Isa::kNeonDotprod);
#endif
  return isas;
}

bool IsSupported(Isa isa) {
  for (Isa supported : SupportedIsas()) {
    if (supported == isa) return true;
  }
  return false;
}

Isa DetectIsa() { return SupportedIsas().back(); }

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvxVnni:
      return "avx_vnni";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Vnni:
      return "avx512_vnni";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAmx:
      return "amx";
    case Isa::kNeon:
      return "neon";
    case Isa::kNeonDotprod:
      return "neon_dotprod";
  }
  return "unknown";
}

}  // namespace loramux
