#include "addon/machine.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "loramux/cpu_features.h"

namespace loramux::addon {
namespace {

constexpr const char* kFeatures[] = {
    "avx",         "avx2",        "fma",          "f16c",     "avx_vnni",  "avx512f",
    "avx512bw",    "avx512dq",    "avx512vl",     "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile",    "amx_bf16",    "amx_int8",     "asimd",    "asimddp",   "bf16",
    "i8mm",        "sve",
};

}  // namespace

std::vector<std::string> AvailableIsas() {
  std::vector<std::string> names;
  for (const Isa isa : SupportedIsas()) names.emplace_back(IsaName(isa));
  return names;
}

std::vector<std::string> CpuFeatures() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with("flags") || line.starts_with("Features")) break;
    line.clear();
  }
  std::istringstream words(line);
  std::vector<std::string> flags;
  for (std::string word; words >> word;) flags.push_back(word);
  std::vector<std::string> found;
  for (const char* feature : kFeatures) {
    if (std::find(flags.begin(), flags.end(), feature) != flags.end()) found.emplace_back(feature);
  }
  return found;
}

}  // namespace loramux::addon
