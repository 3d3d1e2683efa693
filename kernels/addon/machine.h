// Facts about the processor for `doctor`.
#pragma once

#include <string>
#include <vector>

namespace loramux::addon {

// Kernel paths this processor can run, weakest first.
std::vector<std::string> AvailableIsas();

// Of the features that matter to inference, those that /proc/cpuinfo lists, in a fixed order; empty
// where there is no such file.
std::vector<std::string> CpuFeatures();

}  // namespace loramux::addon
