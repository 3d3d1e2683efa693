#include "loramux/segmented_lora.h"

#include <vector>

namespace loramux::reference {

void SegmentedLora(const SegmentedLoraArgs& args) {
  for (int64_t i = 0; i < args.num_segments; ++i) {
    const LoraSegment& s = args.segments[i];
    if (s.rank == 0) continue;
    std::vector<double> h(static_cast<size_t>(s.rank));
    for (int64_t row = s.begin; row < s.end; ++row) {
      const float* x = args.x + row * args.in;
      float* y = args.y + row * args.out;
      for (int64_t k = 0; k < s.rank; ++k) {
        double sum = 0.0;
        for (int64_t j = 0; j < args.in; ++j) {
          sum += static_cast<double>(x[j]) * static_cast<double>(s.a[k * args.in + j]);
        }
        h[static_cast<size_t>(k)] = sum;
      }
      for (int64_t o = 0; o < args.out; ++o) {
        double sum = 0.0;
        for (int64_t k = 0; k < s.rank; ++k) {
          const float b = s.bt != nullptr ? s.bt[k * args.out + o] : s.b[o * s.rank + k];
          sum += h[static_cast<size_t>(k)] * static_cast<double>(b);
        }
        y[o] = static_cast<float>(static_cast<double>(y[o]) + static_cast<double>(s.scale) * sum);
      }
    }
  }
}

}  // namespace loramux::reference
